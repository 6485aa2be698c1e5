"""``scripts/cameras.py`` from nothing, small: what the study of cameras begins with, and options that differ."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "cameras.py"
SMALL = "--cameras 2 --days 3 --frames 1 --places 3 --batch 2 --weak 0 --strong 2 --student 2"


def prepare(monkeypatch: pytest.MonkeyPatch, out: Path, options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["cameras.py", f"--out={out}", *options.split()])
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # so few frames are not worth a process
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_what_it_leaves_and_that_it_goes_on_only_with_the_same_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(monkeypatch, tmp_path, SMALL)
    names = {"scenes", "general", "strong.ckpt", "student.ckpt", "options.json", "prepared.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    found = json.loads((tmp_path / "prepared.json").read_text())["general places"]
    assert found.keys() == {"strong", "student"}
    assert found["strong"]["parameters"] > 10 * found["student"]["parameters"]
    before = (tmp_path / "strong.ckpt").stat().st_mtime_ns
    prepare(monkeypatch, tmp_path, SMALL)
    assert (tmp_path / "strong.ckpt").stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        prepare(monkeypatch, tmp_path, SMALL.replace("--strong 2", "--strong 3"))
    assert "options.json; give those, or move the folder away" in capsys.readouterr().err
