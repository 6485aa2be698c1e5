"""Exported students: files that say what the student says, what a device reads, and what cannot be written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmkd.edge import Graph, export
from mmkd.edge.formats import OPSET, Onnx
from mmkd.edge.reading import inputs_of
from mmkd.edge.suppression import translations
from mmkd.students import AudioStudent, Classifier, DetectionStudent, Student, TextStudent, VisionStudent
from mmkd.students.detectors.suppression import kept
from mmkd.students.outputs import Regressor, Tagger
from mmkd.types import SHOWN, ConfigError, Padded
from tests.students.kinds import CLASSES, KINDS

pytest.importorskip("onnxruntime")
WITHOUT = "import sys, runpy; sys.modules.update(torch=None, mmkd=None); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""A program that runs another, in which neither torch nor mmkd can be imported."""


def drawn(kind: str) -> tuple[Student, Any]:
    torch.manual_seed(0)
    stream = torch.Generator().manual_seed(0)
    if kind == "fcos":  # of no least score, so that there is something to suppress
        settings = {
            "backbone": "mobilenetv3_small_050",
            "channels": 16,
            "least": 0.0,
            "nms": 0.3,
            "detections": 1000,
        }
        frames = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8, generator=stream)
        return DetectionStudent(2, settings=settings), frames
    return KINDS[kind].build(), KINDS[kind].draw(5, stream)


def predicted(folder: Path, *samples: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", WITHOUT, str(folder / "predict.py"), *samples]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


QUICK = ("small_cnn group", "audio cnn")
REST = [
    pytest.param(kind, marks=pytest.mark.long) for kind in [*KINDS, "fcos"] if kind not in (*QUICK, "fusion")
]


@pytest.mark.parametrize("kind", [*QUICK, *REST])
def test_files_say_what_the_student_says(kind: str, tmp_path: Path) -> None:
    """Of one sample, of two and of all; the checker has looked at the graph, and it was timed."""
    student, x = drawn(kind)
    done = export(student, x, tmp_path / "device", temperature=2.0, classes=["a", "b", "c", "d", "e"])
    assert set(done.parity) == {"onnx"}
    assert done.parity["onnx"] <= 1e-4
    taken = done.measured["onnx"]
    assert 0 < taken["median_ms"] <= taken["p95_ms"]
    assert taken["peak_mib"] < 300  # and not the gibibyte of the process that started it
    graph = Graph(student, 2.0)
    run = Onnx().load(tmp_path / "device" / "model.onnx")
    arguments = graph.arguments(x)
    with torch.no_grad():
        wanted = graph(*arguments)
    for found, right in zip(run(arguments), wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
    if kind == "fcos":
        assert int((wanted[0][..., 4] > 0).sum()) > 10
    else:
        torch.testing.assert_close(wanted[1], (wanted[0] / 2).softmax(-1))


def test_a_device_reads_views_and_misses_some(tmp_path: Path) -> None:
    """Two modalities, without torch and mmkd: a picture and a text, and each alone."""
    from PIL import Image

    student, x = drawn("fusion")
    x["text"] = torch.where(x["text"] > 0, x["text"].clamp(min=33), 0)  # characters
    export(student, x, tmp_path / "device", classes=list("abcde"), threshold=0.9)
    picture = Image.effect_noise((20, 30), 60)
    picture.save(tmp_path / "a.png")
    both, seen, read = predicted(
        tmp_path / "device", f"image={tmp_path}/a.png,text=!;(", f"image={tmp_path}/a.png", "text=!;("
    )
    small = (
        torch.tensor(list(picture.resize((8, 8), Image.Resampling.BILINEAR).tobytes())).view(1, 1, 8, 8) / 255
    )
    tokens = torch.zeros(1, 12, dtype=torch.long)
    tokens[0, :3] = torch.tensor([ord(c) for c in "!;("])
    for said, shown in ((both, (True, True)), (seen, (True, False)), (read, (False, True))):
        views = {"image": small, "text": tokens}
        views |= {SHOWN + m: torch.tensor([there]) for m, there in zip(("image", "text"), shown, strict=True)}
        chances = student.eval()(views).detach().softmax(-1)[0]
        assert said["class"] == "abcde"[int(chances.argmax())]
        assert said["probability"] == pytest.approx(float(chances.max()), abs=1e-5)
        assert said["sure"] == (float(chances.max()) >= 0.9)


class Suppress(nn.Module):
    """Non-maximum suppression alone."""

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        return kept(boxes, scores, labels, 0.4)


@pytest.mark.filterwarnings(
    "ignore:.*shares the same shape constraints"
)  # the exporter's, of one axis for three
def test_suppression_in_a_graph_keeps_what_torchvision_keeps(tmp_path: Path) -> None:
    """Boxes that overlap much, of three classes that do not suppress one another; alone and of several frames."""

    def drawn(frames: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        stream = torch.Generator().manual_seed(seed)
        corner = 20 * torch.rand(frames, 30, 2, generator=stream)
        boxes = torch.cat([corner, corner + 5 + 15 * torch.rand(frames, 30, 2, generator=stream)], -1)
        boxes[:, 10:13] = boxes[:, :1]  # the same place, once of each class
        labels = torch.randint(3, (frames, 30), generator=stream)
        labels[:, 10:13] = torch.arange(3)
        return boxes, torch.rand(frames, 30, generator=stream), labels

    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.onnx.export(
        Suppress().eval(), drawn(3, 0), dynamic_shapes=[{0: batch}] * 3, opset_version=OPSET, dynamo=True, verbose=False,
        custom_translation_table=translations(),
    )  # fmt: skip
    program.save(tmp_path / "model.onnx")
    run = Onnx().load(tmp_path / "model.onnx")
    for frames in (1, 2, 5):
        given = drawn(frames, frames)
        right = kept(*given, 0.4)
        assert 3 < int(right.sum()) / frames < 27
        assert torch.equal(run(given)[0], right)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.long) for k in ("bert", "audio cnn")])
def test_8_bits_are_calibrated_smaller_and_say_nearly_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By samples of their own; beside floats or alone, where the program runs them."""
    student, _ = drawn(kind)
    x, other = (KINDS[kind].draw(40, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with pytest.raises(ConfigError, match="int8 is calibrated on samples of its own: give calibration"):
        export(student, x, tmp_path / "device", formats=["int8"])
    done = export(student, x, tmp_path / "device", formats=["onnx", "int8"], calibration=other)
    assert done.size["int8"] < done.size["onnx"]
    assert done.parity["int8"] > 1e-3
    assert done.agreement["onnx"] == 1
    assert done.agreement["int8"] >= 0.9  # of a student that has not learned to tell classes apart
    assert set(done.measured) == {"onnx", "int8"}
    assert "in 8 bits it takes" in (tmp_path / "device" / "README.md").read_text()
    if kind == "audio cnn":  # a spectrogram in 8 bits has lost what is not loud
        monkeypatch.setattr("mmkd.edge.formats._not_learned", lambda path, parameters: [])
        rough = export(student, x, tmp_path / "rough", formats=["int8"], calibration=other)
        assert rough.parity["int8"] > 1.2 * done.parity["int8"]
    else:
        (tmp_path / "device" / "model.onnx").unlink()
        np.save(tmp_path / "tokens.npy", x[4].numpy())
        (said,) = predicted(tmp_path / "device", str(tmp_path / "tokens.npy"))
        chances = student.eval()(x[4:5]).detach().softmax(-1)[0]
        assert said["probability"] == pytest.approx(float(chances[int(said["class"])]), abs=0.05)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["small_cnn group", "audio cnn", "bert", "fusion", "motion cnn"])
def test_other_formats_say_the_same(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    student, x = drawn(kind)
    done = export(student, x, tmp_path / "device", formats=["torch", "executorch"])
    assert max(done.parity.values()) <= 1e-4
    assert set(done.size) == {"torch", "executorch"}
    assert done.measured == {}  # which is onnxruntime's


class Tags(Tagger):
    modalities = ("thing",)

    def __init__(self, tags: int) -> None:
        super().__init__(tags, dim=3)

    def embed(self, x: Tensor) -> Tensor:
        return x


class Depth(Regressor):
    modalities = ("thing",)

    def __init__(self, values: int) -> None:
        super().__init__(values, dim=3)

    def embed(self, x: Tensor) -> Tensor:
        return x


def test_outputs_follow_from_what_a_student_predicts() -> None:
    x = torch.randn(4, 3)
    tags, depth = Graph(Tags(2), 2.0), Graph(Depth(2))
    logits, chances = tags(x)
    torch.testing.assert_close(chances, torch.sigmoid(logits / 2))
    assert (tags.outputs, depth.outputs) == (["logits", "probabilities"], ["values"])
    assert [len(depth(x)), depth(x)[0].shape] == [1, (4, 2)]
    (given,) = inputs_of(tags, tags.arguments(x), None)
    assert given[:4] == ("thing", "array", [3], "float32")


def test_inputs_are_what_a_device_has() -> None:
    """A sound has its student's rate; texts are characters only if their tokens are."""
    hears = Graph(AudioStudent(CLASSES, sample_rate=4000))
    assert inputs_of(hears, (torch.zeros(2, 400),), None)[0][:5] == ("audio", "sound", [400], "float32", 4000)
    reads, codes = Graph(TextStudent(CLASSES)), torch.tensor([[104, 105, 0], [0, 0, 0]])
    kinds = [
        inputs_of(reads, (tokens,), made)[0]
        for tokens, made in ((codes, None), (codes - 70, None), (codes, "{}"))
    ]
    assert [(k.kind, k.tokenizer) for k in kinds] == [
        ("text", "characters"),
        ("array", None),
        ("text", "tokenizer.json"),
    ]


class Branch(Classifier):
    """Reads values of its input in Python, which no graph can."""

    modalities = ("thing",)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, dim=3)

    def embed(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    x = torch.randn(3, 3)
    with pytest.raises(ConfigError, match=r"the student cannot be written for torch\.export: "):
        export(Branch(CLASSES), x, tmp_path / "a", formats=["torch"])
    with pytest.raises(ConfigError, match="no format 'onxx'; did you mean onnx"):
        export(Tags(2), x, tmp_path / "a", formats=["onxx"])
    with pytest.raises(ConfigError, match="of unequal length"):
        export(AudioStudent(CLASSES), Padded(x, torch.tensor([1, 2, 3])), tmp_path / "a")
    with pytest.raises(ConfigError, match="reads 'image', of which these samples have nothing"):
        export(VisionStudent(CLASSES), {"text": x}, tmp_path / "a")
    with pytest.raises(ConfigError, match="single precision"):
        export(VisionStudent(CLASSES).double(), x, tmp_path / "a")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="is there and is no export"):
        export(Tags(2), x, tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_student_that_has_diverged_is_not_written(tmp_path: Path) -> None:
    student = Tags(2)
    student.main.weight.data[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="says what is no number of samples that are: it has diverged"):
        export(student, torch.randn(3, 3), tmp_path / "device")
    assert not any(tmp_path.iterdir())


def test_a_file_that_says_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export before it stays."""
    x = torch.randn(3, 3)
    export(Tags(2), x, tmp_path / "device")
    before = (tmp_path / "device" / "model.onnx").read_bytes()
    load = Onnx.load
    monkeypatch.setattr(
        Onnx, "load", lambda self, path: lambda some: [t * 1.001 for t in load(self, path)(some)]
    )
    with pytest.raises(
        ConfigError, match=r"model.onnx says something else than the student: 'logits' of samples 0"
    ):
        export(Tags(2), x, tmp_path / "device")
    assert (tmp_path / "device" / "model.onnx").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["device"]
