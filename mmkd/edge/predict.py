"""Say what a model that mmkd exported makes of files or texts, without mmkd and without torch.

    python predict.py cat.png dog.png
    python predict.py yes.wav
    python predict.py "a text" another.txt
    python predict.py image=cat.png,text="a cat"      a sample of several views, of which some may be missing
    python predict.py --time 200                      how long it takes on one core, and how much memory

A line of JSON a sample. It needs numpy and onnxruntime, Pillow for images, soundfile for sounds and
tokenizers for texts with a tokenizer of their own.
"""

import argparse
import json
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
"""The exported folder."""
NPY = b"\x93NUMPY"
"""Beginning of a file of numpy."""
MODULES = {"PIL": "Pillow", "soundfile": "soundfile", "tokenizers": "tokenizers"}
"""Packages that some samples take beside numpy and onnxruntime, by the module that is imported."""
Arrays = dict[str, np.ndarray]
"""Tensors by name, with a leading axis of samples."""


def main() -> int:
    """Read samples, and print what the model makes of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("samples", nargs="*", help="files or texts")
    parser.add_argument("--model", default=default(), help="file of the model, beside this one")
    parser.add_argument("--time", type=int, metavar="N", help="time N predictions of one sample")
    options = parser.parse_args()
    about = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
    if options.time:
        print(json.dumps(timed(about, options.time, HERE / options.model)))
        return 0
    if not options.samples:
        parser.error("give files or texts, or --time")
    run = session(HERE / options.model)
    for sample in options.samples:
        try:
            print(json.dumps({"sample": sample, **said(about, run(read(about, sample)))}, ensure_ascii=False))
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            return wrong(sample, " ".join(str(error).split())[:200])
        except ModuleNotFoundError as error:
            package = MODULES.get(str(error.name), str(error.name))
            return wrong(sample, f"it takes {package}: pip install {package}")
    return 0


def wrong(sample: str, what: str) -> int:
    """Say what is wrong with a sample; returns the status."""
    print(f"predict.py: {sample}: {what}", file=sys.stderr)
    return 2


def default() -> str:
    """The model that is run if none is named: of floats if there is one, else in 8 bits."""
    return "model.onnx" if (HERE / "model.onnx").is_file() else "model.int8.onnx"


def session(path: Path) -> Any:
    """A function from arrays by name to the outputs by name; of one thread, as on a small device."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    model = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in model.get_outputs()]
    return lambda arrays: dict(zip(names, model.run(None, arrays), strict=True))


def said(about: dict[str, Any], outputs: Arrays) -> dict[str, Any]:
    """The outputs of one sample, in words where there are any."""
    if "detections" in outputs:
        found = [row for row in outputs["detections"][0].tolist() if row[4] > 0]
        return {"objects": [{"box": r[:4], "score": r[4], "class": name(about, int(r[5]))} for r in found]}
    if "values" in outputs:
        return {"values": outputs["values"][0].tolist()}
    chances = outputs["probabilities"][0]
    if about["kind"] == "tags":
        return {"tags": {name(about, i): float(chance) for i, chance in enumerate(chances)}}
    best = int(chances.argmax())
    sure = bool(chances[best] >= about["threshold"])
    return {"class": name(about, best), "probability": float(chances[best]), "sure": sure}


def name(about: dict[str, Any], number: int) -> str:
    """The name of a class, or its number."""
    return about["classes"][number] if about["classes"] else str(number)


def read(about: dict[str, Any], sample: str) -> Arrays:
    """One sample as the model reads it, ``[1, ...]`` by the name of each input."""
    inputs = {given["name"]: given for given in about["inputs"]}
    views = [given for given in inputs.values() if given["kind"] != "shown"]
    if len(views) == 1:
        return {views[0]["name"]: view(views[0], sample)[None]}
    parts = dict(part.split("=", 1) for part in sample.split(",") if "=" in part)
    if not parts or set(parts) - {given["name"] for given in views}:
        raise ValueError("give views as " + ",".join(f"{given['name']}=..." for given in views))
    arrays = {}
    for given in views:
        there = given["name"] in parts
        blank = np.zeros(given["shape"], given["dtype"])
        arrays[given["name"]] = (view(given, parts[given["name"]]) if there else blank)[None]
        arrays["shown/" + given["name"]] = np.array([there])
    return arrays


def view(given: dict[str, Any], source: str) -> np.ndarray:
    """A file or a text as one view, of the shape and type that the model reads."""
    readers = {"image": image, "sound": sound, "text": text, "array": array}
    found: np.ndarray = readers[given["kind"]](given, source)
    if list(found.shape) != given["shape"]:
        raise ValueError(f"its shape is {list(found.shape)}, and the model reads {given['shape']}")
    return found.astype(given["dtype"])


def image(given: dict[str, Any], source: str) -> np.ndarray:
    """An image file, resized; of 0 to 1, or of bytes."""
    from PIL import Image

    channels, height, width = given["shape"]
    with Image.open(source) as file:
        whole = file.convert("RGB" if channels == 3 else "L")
        pixels = np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR))
    pixels = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    return pixels if given["dtype"] == "uint8" else pixels / 255


def sound(given: dict[str, Any], source: str) -> np.ndarray:
    """The middle of a sound file, one channel at the model's rate; silence follows what is shorter."""
    import soundfile

    wave, rate = soundfile.read(source, dtype="float32", always_2d=True)
    wave = resampled(wave.mean(1), rate, given["rate"])
    (length,) = given["shape"]
    start = max(0, (len(wave) - length) // 2)
    heard = wave[start : start + length].clip(-1, 1)
    return np.pad(heard, (0, length - len(heard)))


def resampled(wave: np.ndarray, old: int, new: int, width: int = 6, rolloff: float = 0.99) -> np.ndarray:
    """A sound at another rate: windowed sinc interpolation, as torchaudio does it by default."""
    if old == new:
        return wave
    divisor = int(np.gcd(old, new))
    old, new = old // divisor, new // divisor
    lowest = min(old, new) * rolloff
    reach = int(np.ceil(width * old / lowest))
    near = np.arange(-reach, reach + old) / old
    at = (-np.arange(new)[:, None] / new + near[None]) * lowest
    window = np.cos(at.clip(-width, width) * np.pi / width / 2) ** 2
    kernels = np.sinc(at.clip(-width, width)) * window * lowest / old
    padded = np.pad(wave, (reach, reach + old))
    frames = np.lib.stride_tricks.sliding_window_view(padded, kernels.shape[1])[::old]
    heard: np.ndarray = (frames @ kernels.T).ravel()
    return heard[: int(np.ceil(new * len(wave) / old))]


def text(given: dict[str, Any], source: str) -> np.ndarray:
    """The tokens of a text, or of a text file, with 0 after its end."""
    path = Path(source)
    content = (
        path.read_text(encoding="utf-8").strip() if source.endswith(".txt") and path.is_file() else source
    )
    if given["tokenizer"] == "characters":
        plain = [c for c in unicodedata.normalize("NFKD", content) if not unicodedata.combining(c)]
        tokens = [ord(c) if 0 < ord(c) < 128 else ord("?") for c in plain]
    else:
        from tokenizers import Tokenizer

        tokens = Tokenizer.from_file(str(HERE / given["tokenizer"])).encode(content).ids
    (length,) = given["shape"]
    return np.array((tokens + [0] * length)[:length])


def array(given: dict[str, Any], source: str) -> np.ndarray:
    """Numbers of a file of numpy, as the model reads them."""
    with open(source, "rb") as file:
        if file.read(len(NPY)) != NPY:
            raise ValueError("it is no array in a file of numpy (.npy)")
    found: np.ndarray = np.load(source, allow_pickle=False)
    return found


def timed(about: dict[str, Any], count: int, path: Path) -> dict[str, float]:
    """Milliseconds of a prediction of one sample, and the most memory that the process took."""
    blank = {g["name"]: np.zeros((1, *g["shape"]), g["dtype"]) for g in about["inputs"]}
    before = most_memory()
    run = session(path)
    for _ in range(5):
        run(blank)
    took = []
    for _ in range(count):
        start = time.perf_counter()
        run(blank)
        took.append(1000 * (time.perf_counter() - start))
    most = most_memory()
    return {
        "median_ms": float(np.median(took)),
        "p95_ms": float(np.quantile(took, 0.95)),
        "peak_mib": most,
        "model_mib": most - before,
    }


def most_memory() -> float:
    """The most memory that this process has taken so far, in MiB."""
    import resource

    status = Path("/proc/self/status")
    if status.is_file():  # what the process was started from is not in it, as it is in the other
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
