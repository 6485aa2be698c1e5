"""Speech from text through eSpeak NG (GPL-3.0, the extra ``digits``), with recordings kept on disk."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int16
from safetensors.torch import load, save
from torch import Tensor

from mmkd.types import ConfigError

_RATE = 22_050  # samples per second that eSpeak NG makes
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, which runs inside espeak_Synth
_UTF8 = 1  # espeakCHARS_UTF8
_PARAMETERS = {"rate": 1, "pitch": 3, "melody": 4}  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_LAYOUT = 1  # raise it when recordings change although their utterances do not


class Utterance(NamedTuple):
    """Something to say, and how."""

    text: str
    voice: str  # language, optionally with a variant: "en-us", "en-gb-scotland+f3"
    rate: int = 175  # words per minute, 80 to 450
    pitch: int = 50  # 0 to 100
    melody: int = 50  # how much the pitch moves: 0 (monotone) to 100


class Recordings(NamedTuple):
    """Utterances as sound, silence around them cut, zeros after them."""

    wave: Int16[Tensor, "utterances samples"]
    length: Int[Tensor, " utterances"]  # samples that are sound


def record(
    utterances: Sequence[Utterance], *, sample_rate: int, samples: int, cache: str | Path
) -> Recordings:
    """Say ``utterances``, or read what was said before.

    eSpeak NG adds breath and flutter from a state that goes on from one utterance to the next, and
    that nothing resets. So the whole list is said in order in a fresh process: it always sounds the
    same. The file in ``cache`` is named by all that the sound depends on, carries a checksum (a
    damaged file is replaced) and appears in one move, so that processes may share the folder.

    Args:
        utterances: what to say.
        sample_rate: samples per second.
        samples: length of a recording; what goes on for longer is cut off.
        cache: folder for recordings.

    Raises:
        ConfigError: eSpeak NG is not installed, or could not say this.
    """
    try:
        release = version("espeakng-loader")
    except PackageNotFoundError as error:
        raise ConfigError(
            "spoken data need eSpeak NG, which is not installed: pip install 'mmkd[digits]'"
        ) from error
    made_from = json.dumps([_LAYOUT, release, sample_rate, samples, utterances])
    path = Path(cache) / f"speech-{_digest(made_from.encode()).hex()}"
    if (content := _read(path)) is None:
        tensors = _cut(_say_elsewhere(utterances), sample_rate, samples)._asdict()
        content = save(tensors)
        _write(path, content)
    return Recordings(**load(content))


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _read(path: Path) -> bytes | None:
    """What ``_write`` wrote; nothing if it is not there or not whole."""
    if not path.exists():
        return None
    whole = path.read_bytes()
    return whole[16:] if _digest(whole[16:]) == whole[:16] else None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(_digest(content) + content)
    os.replace(file.name, path)


def _cut(sounds: list[np.ndarray], sample_rate: int, samples: int) -> Recordings:
    """Cut what is 34 dB below the peak from both ends, resample, fill up with zeros."""
    from torchaudio.functional import resample

    trimmed = []
    for sound in sounds:
        loud = np.flatnonzero(np.abs(sound.astype(np.int32)) > 0.02 * np.abs(sound.astype(np.int32)).max())
        trimmed.append(torch.from_numpy(sound[loud[0] : loud[-1] + 1]))
    length = torch.tensor([len(sound) * sample_rate // _RATE for sound in trimmed]).clamp(max=samples)
    wave = torch.zeros(len(trimmed), samples, dtype=torch.int16)
    for start in range(0, len(trimmed), 256):
        rows = trimmed[start : start + 256]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        sound = resample(padded.float(), _RATE, sample_rate)[:, :samples]
        wave[start : start + len(rows), : sound.shape[1]] = sound.round().clamp(-32768, 32767).short()
    wave[torch.arange(samples) >= length[:, None]] = 0
    return Recordings(wave, length)


def _say_elsewhere(utterances: Sequence[Utterance]) -> list[np.ndarray]:
    """``_say`` in a fresh process."""
    run = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(utterances).encode(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    if run.returncode != 0:
        reason = run.stderr.decode(errors="replace").strip().splitlines() or [f"status {run.returncode}"]
        raise ConfigError(f"eSpeak NG failed: {reason[-1]}")
    stream = BytesIO(run.stdout)
    length, sound = np.load(stream), np.load(stream)
    return np.split(sound, length.cumsum()[:-1])


def _say(utterances: Sequence[Utterance]) -> list[np.ndarray]:
    """The sound of each utterance, int16 at 22,050 samples per second."""
    import espeakng_loader

    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    chunks: list[np.ndarray] = []

    def collect(samples: ctypes._Pointer[ctypes.c_short], size: int, events: int | None) -> int:
        if samples and size > 0:
            chunks.append(np.ctypeslib.as_array(samples, (size,)).copy())
        return 0

    # The library keeps a bare pointer: this name keeps Python from freeing what it points at.
    callback = _CALLBACK(collect)
    rate = espeak.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate != _RATE:
        raise SystemExit(f"eSpeak NG should make {_RATE} samples per second and says {rate}")
    # Initialising seeds the noise with the time of day.
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(0))
    espeak.espeak_SetSynthCallback(callback)
    sounds = []
    for utterance in utterances:
        if espeak.espeak_SetVoiceByName(utterance.voice.encode()) != 0:
            raise SystemExit(f"it has no voice '{utterance.voice}'")
        for name, number in _PARAMETERS.items():
            espeak.espeak_SetParameter(number, getattr(utterance, name), 0)
        chunks.clear()
        text = utterance.text.encode()
        status = espeak.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _UTF8, None, None)
        if status != 0 or not any(chunk.any() for chunk in chunks):
            raise SystemExit(f"it is silent on '{utterance.text}' with voice '{utterance.voice}'")
        sounds.append(np.concatenate(chunks))
    return sounds


def _main() -> None:
    """Utterances from standard input, their lengths and all samples to standard output."""
    sounds = _say([Utterance(*fields) for fields in json.load(sys.stdin)])
    buffer = BytesIO()
    np.save(buffer, np.array([len(sound) for sound in sounds]))
    np.save(buffer, np.concatenate(sounds))
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    _main()
