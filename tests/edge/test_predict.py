"""The program in an exported folder reads files as training did."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from mmkd.data.media import Images, Sounds
from mmkd.data.texts import TextView, characters, letters
from mmkd.edge import predict
from tests.data import files


@pytest.mark.parametrize("rates", [(22050, 16000), (44100, 8000), (8000, 16000), (11025, 11025)])
@pytest.mark.parametrize("length", [1, 700, 8001])
def test_sounds_are_resampled_as_torchaudio_does(rates: tuple[int, int], length: int) -> None:
    wave = np.random.default_rng(0).standard_normal(length).astype(np.float32)
    right = resample(torch.from_numpy(wave), *rates).numpy()
    found = predict.resampled(wave, *rates)
    assert found.shape == right.shape
    assert np.abs(found - right).max() < 2e-4  # torchaudio's kernel is of single precision


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.7])
def test_a_sound_is_what_students_heard(seconds: float, tmp_path: Path) -> None:
    """Shorter, as long, and longer than what is heard; of two channels, at another rate."""
    path = files.sound(tmp_path / "a.wav", 1, 0, rate=11025, seconds=seconds, channels=2)
    heard = Sounds(8000, 0.3).decode(path).float() / torch.iinfo(torch.int16).max
    given = {"kind": "sound", "shape": [2400], "rate": 8000, "dtype": "float32"}
    assert np.abs(predict.view(given, str(path)) - heard.numpy()).max() < 3e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_what_students_saw(channels: int, tmp_path: Path) -> None:
    path = files.image(tmp_path / "a.png", 1, 0, size=(31, 19))
    seen = Images(8, channels).decode(path)
    for dtype, scale in (("float32", 255), ("uint8", 1)):
        given = {"kind": "image", "shape": [channels, 8, 8], "dtype": dtype}
        away = np.abs(predict.view(given, str(path)).astype(float) * scale - seen.numpy().astype(float))
        assert away.max() <= 2 + 1e-3  # Pillow rounds between its two passes


def test_a_text_is_what_students_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters, letters of an alphabet, and a tokenizer that was trained; from an argument and from a file."""
    given = {"kind": "text", "shape": [8], "dtype": "int64", "tokenizer": "characters"}
    for text in ("hi there you", "", "Fünf ☃"):
        wanted = [*characters(text), *[0] * 8][:8]
        assert predict.view(given, text).tolist() == wanted
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        assert predict.view(given, str(tmp_path / "a.txt")).tolist() == wanted
    monkeypatch.setattr(predict, "HERE", tmp_path)
    given["tokenizer"] = "tokenizer.json"
    (tmp_path / "tokenizer.json").write_text(letters("abc- "))
    assert predict.view(given, "Câb-d a").tolist() == [3, 1, 2, 4, 5, 1, 0, 0]
    texts = ["a red cat on a mat", "", "the cat sat on the red mat again and again"]
    view = TextView(texts, lambda: torch.arange(3), "public", 8, 300)
    tokens = view.take(torch.arange(3))
    made = view.tokenizer()
    assert made is not None
    (tmp_path / "tokenizer.json").write_text(made, encoding="utf-8")
    for text, right in zip(texts, tokens.tolist(), strict=True):
        assert predict.view(given, text).tolist() == right


def test_wrong_samples_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    given = {"name": "motion", "kind": "array", "shape": [2, 4], "dtype": "float32"}
    with pytest.raises(ValueError, match=r"its shape is \[2, 3\], and the model reads \[2, 4\]"):
        predict.view(given, str(tmp_path / "a.npy"))
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(ValueError, match=r"it is no array in a file of numpy \(.npy\)"):
        predict.view(given, str(tmp_path / "a.txt"))
    about = {"inputs": [given, {**given, "name": "other"}, {"name": "shown/motion", "kind": "shown"}]}
    for sample in ("a.npy", "image=a.png", "motion"):
        with pytest.raises(ValueError, match=r"give views as motion=\.\.\.,other=\.\.\."):
            predict.read(about, sample)


def test_a_package_that_is_missing_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package by the name under which it is installed, and not a traceback."""
    given = {"name": "image", "kind": "image", "shape": [3, 8, 8], "dtype": "float32"}
    (tmp_path / "model.json").write_text(json.dumps({"inputs": [given]}))
    monkeypatch.setattr(predict, "HERE", tmp_path)
    monkeypatch.setattr(predict, "session", lambda path: None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setattr(sys, "argv", ["predict.py", "a.png"])
    assert predict.main() == 2
    assert capsys.readouterr().err == "predict.py: a.png: it takes Pillow: pip install Pillow\n"


def test_what_is_said() -> None:
    about = {"classes": ["no", "yes"], "threshold": 0.8, "kind": "classes"}
    said = predict.said(about, {"probabilities": np.array([[0.25, 0.75]])})
    assert said == {"class": "yes", "probability": 0.75, "sure": False}
    assert predict.said({**about, "threshold": 0.75}, {"probabilities": np.array([[0.25, 0.75]])})["sure"]
    assert predict.said({**about, "kind": "tags"}, {"probabilities": np.array([[0.5, 1.0]])}) == {
        "tags": {"no": 0.5, "yes": 1.0}
    }
    boxes = np.array([[[1, 2, 3, 4, 0.5, 1], [0, 0, 0, 0, 0, -1]]], dtype=float)
    assert predict.said(about, {"detections": boxes}) == {
        "objects": [{"box": [1, 2, 3, 4], "score": 0.5, "class": "yes"}]
    }
    assert predict.said({**about, "classes": []}, {"values": np.array([[1.5]])}) == {"values": [1.5]}
