"""Another process, in which strings have other hashes, draws the same data."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from datamodules.parking import car_park, render, render_general
from tests.datamodules.digests import files

ROOT = Path(__file__).parents[2]
SIZE = {"days": 3, "frames_per_day": 1, "height": 30, "width": 40}


def drawn() -> dict[str, str | list[str]]:
    """Typed words, and digests of car parks.

    Only words are strings among the digits. Their file is run by itself, for the package needs Lightning,
    whose import takes longer than all else here.
    """
    typed = runpy.run_path(str(ROOT / "datamodules" / "digits" / "spelling.py"))["typed"]
    labels = {part: torch.arange(10).repeat(20) for part in ("private", "public", "val", "test")}
    words = typed(labels, languages=["en", "de", "fr", "sv", "ru"], typos=0.5, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        render(Path(folder) / "scenes", car_park(cameras=1, **SIZE))
        render_general(Path(folder) / "places", places=3, **SIZE)
        return {**words, "car parks": files(Path(folder))}


def elsewhere(call: str) -> str:
    """What a call prints in a fresh process with another seed of hashes."""
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", call]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_strings_of_other_hashes_change_no_word_and_no_car_park() -> None:
    call = "import json; from tests.datamodules.test_fresh_process import drawn; print(json.dumps(drawn()))"
    assert json.loads(elsewhere(call)) == drawn()


@pytest.mark.long
def test_another_process_has_the_same_digits() -> None:
    from tests.datamodules.test_digits import digest, make

    call = "from tests.datamodules.test_digits import digest, make; print(digest(make()))"
    assert elsewhere(call) == digest(make())
