"""The folder of a run: one process writes into it at a time, and no other run ever."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from mmkd.files import replacing, unfinished
from mmkd.lock import holding
from mmkd.types import ConfigError

RUN = ".run"
"""File that says which run a folder is of."""
FILES = ("config.yaml", "curve.csv", "ledger.csv", "outcome.json", "result.json")
"""Files of a run, which nobody may write over."""


class RunFolder:
    """A folder that is claimed for a run.

    Args:
        path: of the folder, which is made once it is claimed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = ExitStack()

    def claim(self, run: str) -> None:
        """Hold the folder for this process until ``release``; what a killed process has left is removed.

        Args:
            run: tells a run from all others; a run that goes on keeps it.

        Raises:
            ConfigError: another process writes into the folder, or another run has.
        """
        with ExitStack() as held:
            held.enter_context(holding(self.path))
            if (known := run_of(self.path)) != run and (
                known or any((self.path / name).exists() for name in FILES)
            ):
                raise ConfigError(
                    f"{self.path} holds another run: write to another folder, or go on with that run from"
                    " one of its checkpoints"
                )
            for folder in (self.path, *(path for path in self.path.iterdir() if path.is_dir())):
                for leftover in unfinished(folder):
                    leftover.unlink(missing_ok=True)
            with replacing(self.path / RUN) as part:
                part.write_text(json.dumps({"run": run}))
            self._held = held.pop_all()

    def release(self) -> None:
        """Let others read and go on."""
        self._held.close()


def begin_anew(folder: Path) -> None:
    """Remove what an attempt that left no checkpoint has written; the next one is another run."""
    for name in (RUN, *FILES):
        (folder / name).unlink(missing_ok=True)


def run_of(folder: Path) -> str | None:
    """The run that a folder is of; None if it is of none, or nobody knows."""
    try:
        return str(json.loads((folder / RUN).read_text())["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def folder_of(checkpoint: Path) -> Path | None:
    """The folder of the run that has written a checkpoint, if it lies there."""
    return next((folder for folder in checkpoint.parents[:2] if (folder / RUN).is_file()), None)


def fresh(root: Path, name: str) -> Path:
    """A folder below ``root`` that is of no run yet: its name, and the time."""
    now = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    path, number = root / f"{name}-{now}", 2
    while path.exists():
        path, number = root / f"{name}-{now}-{number}", number + 1
    return path
