"""Exported folders on a device: environments that hold the packages of ``predict.py`` and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmkd.data.media import Images, Sounds
from mmkd.data.texts import TextView, characters
from mmkd.edge import export
from mmkd.edge.predict import MODULES
from mmkd.students import AudioStudent, Classifier, MotionStudent, TextStudent, VisionStudent
from tests.data import files
from tests.students.kinds import BERT, CLASSES

pytest.importorskip("onnxruntime")
pytest.importorskip("uv")
pytestmark = pytest.mark.long
NAMES = list("abcde")
TEXTS = ["a red cat on a mat", "the cat sat on the red mat again and again", "Fünf ☃"]


def environment(folder: Path, packages: list[str]) -> Path:
    """The interpreter of a new environment with some packages of the versions that are installed here."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", str(folder)], check=True)
    python = folder / "bin" / "python"
    pinned = [f"{name}=={version(name)}" for name in packages]
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), *pinned], check=True)
    return python


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = ["onnxruntime", "numpy", *MODULES.values()]
    return environment(tmp_path_factory.mktemp("whole") / "device", packages)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("bare") / "device", ["onnxruntime", "numpy"])


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program of an export, in an environment that sees nothing of this one."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), "predict.py", *arguments]
    return subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, check=False)


def made(kind: str, folder: Path) -> tuple[Classifier, torch.Tensor, list[str], dict[str, Any]]:
    """A student, what it reads of three samples, those samples as a device is given them, how it is exported."""
    torch.manual_seed(0)
    if kind == "images":
        paths = [files.image(folder / f"{i}.png", i, 0, size=(31, 19)) for i in range(3)]
        pixels = torch.stack([Images(8, 3).decode(path) for path in paths])
        return VisionStudent(CLASSES, width=8, in_chans=3), pixels / 255, [*map(str, paths)], {}
    if kind == "sounds":
        paths = [
            files.sound(folder / f"{i}.wav", i, 0, rate=11025, channels=2, seconds=0.2 + 0.1 * i)
            for i in range(3)
        ]
        waves = torch.stack([Sounds(8000, 0.3).decode(path) for path in paths])
        student = AudioStudent(CLASSES, sample_rate=8000, width=8)
        return student, waves / torch.iinfo(torch.int16).max, [*map(str, paths)], {}
    if kind == "characters":
        tokens = torch.tensor([[*characters(text), *[0] * 16][:16] for text in TEXTS])
        return TextStudent(CLASSES, width=8), tokens, TEXTS, {}
    if kind == "tokens":
        view = TextView(TEXTS, lambda: torch.arange(3), "public", 12, 300)
        student = TextStudent(CLASSES, vocabulary=300, transformers=BERT)
        return student, view.take(torch.arange(3)), TEXTS, {"tokenizer": view.tokenizer()}
    x = torch.randn(3, 3, 50)
    paths = [folder / f"{i}.npy" for i in range(3)]
    for path, sample in zip(paths, x, strict=True):
        np.save(path, sample.numpy())
    return MotionStudent(CLASSES, channels=3), x, [*map(str, paths)], {}


@pytest.mark.parametrize("kind", ["images", "sounds", "characters", "tokens", "arrays"])
def test_a_device_says_what_the_student_says(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of files and texts as people have them; arrays want onnxruntime and numpy alone."""
    student, x, samples, how = made(kind, tmp_path)
    export(student, x, tmp_path / "device", classes=NAMES, **how)
    python = request.getfixturevalue("bare" if kind == "arrays" else "whole")
    done = run(python, tmp_path / "device", *samples)
    assert (done.returncode, done.stderr) == (0, "")
    chances = student.eval()(x).detach().softmax(-1)
    for line, sample, right in zip(done.stdout.splitlines(), samples, chances, strict=True):
        said = json.loads(line)
        assert said["sample"] == sample
        assert said["class"] == NAMES[int(right.argmax())]
        assert said["probability"] == pytest.approx(
            float(right.max()), abs=2e-3
        )  # Pillow rounds between its passes
    if kind == "arrays":
        timed = json.loads(run(python, tmp_path / "device", "--time", "20").stdout)
        assert 0 < timed["median_ms"] <= timed["p95_ms"]
        assert 0 < timed["model_mib"] < timed["peak_mib"] < 200


@pytest.mark.parametrize(
    ("kind", "package"), [("images", "Pillow"), ("sounds", "soundfile"), ("tokens", "tokenizers")]
)
def test_a_package_that_is_missing_is_a_line(kind: str, package: str, tmp_path: Path, bare: Path) -> None:
    student, x, samples, how = made(kind, tmp_path)
    export(student, x, tmp_path / "device", classes=NAMES, **how)
    done = run(bare, tmp_path / "device", samples[0])
    assert done.returncode == 2
    assert done.stderr == f"predict.py: {samples[0]}: it takes {package}: pip install {package}\n"


@pytest.mark.parametrize("kind", ["images", "sounds", "arrays"])
def test_samples_of_the_wrong_kind_are_a_line(kind: str, tmp_path: Path, whole: Path) -> None:
    """A text in place of a file, a file that is not there, a folder, and a file of another kind."""
    student, x, _, how = made(kind, tmp_path)
    export(student, x, tmp_path / "device", classes=NAMES, **how)
    (tmp_path / "a.txt").write_text("a text")
    (tmp_path / "empty").write_bytes(b"")
    for sample in (
        "a text",
        str(tmp_path / "no"),
        str(tmp_path),
        str(tmp_path / "a.txt"),
        str(tmp_path / "empty"),
    ):
        done = run(whole, tmp_path / "device", sample)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"predict.py: {sample}: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert "pickle" not in done.stderr
