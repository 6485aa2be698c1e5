"""A short form of ``scripts/soak/runs.py``, the whole of which is part of ``scripts/test --long``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_runs_that_are_killed_go_on_and_lose_nothing() -> None:
    """Kills at random times and while a checkpoint is written; of two runs at once one is refused."""
    command = [sys.executable, "scripts/soak/runs.py", "--kills", "1", "--writes", "1", "--twice", "1"]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = {line[7:]: int(line[:6]) for line in done.stdout.splitlines()}
    assert counted["equal"] == counted["runs"]
    assert counted["kills"] >= 1
    assert counted["kills while a checkpoint is written"] >= 1
    assert counted["two at once, one refused"] == 1
