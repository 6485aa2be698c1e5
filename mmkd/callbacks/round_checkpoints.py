"""A callback that saves a run after every round, and keeps the last checkpoints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mmkd.cohort.checkpoints import whole
from mmkd.cohort.cohort import Cohort

KEPT = 2
"""Checkpoints that are kept. Processes that go through the same rounds are at most one apart, so the older of
two is one that all have."""


class RoundCheckpoints(Checkpoint):
    """Saves a run as a round ends, by the round's number.

    Args:
        folder: where to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if this block ends a round in which peers have trained, and remove what is too old."""
        if not isinstance(pl_module, Cohort) or not batch.steps:
            return
        timetable, tick = pl_module.timetable, batch.steps[-1].tick
        round_ = timetable.round_of(tick)
        if timetable.ends_round(tick) and round_ >= pl_module.begins:
            trainer.save_checkpoint(path_of(self._folder, round_), weights_only=False)
            for old in sorted(found(self._folder))[:-KEPT]:
                path_of(self._folder, old).unlink(missing_ok=True)


def path_of(folder: Path, round: int) -> Path:
    """The checkpoint after a round."""
    return folder / f"round-{round}.ckpt"


def found(folder: Path) -> list[int]:
    """The rounds after which a folder has checkpoints, whole or not."""
    names = [re.fullmatch(r"round-(\d{1,15})\.ckpt", path.name) for path in folder.glob("round-*.ckpt")]
    return [int(name[1]) for name in names if name]


def saved(folder: Path) -> list[int]:
    """The rounds after which a folder has whole checkpoints; of broken ones a line is printed."""
    rounds = []
    for round_ in sorted(found(folder)):
        if reason := whole(path_of(folder, round_)):
            print(f"mmkd: {reason}")
        else:
            rounds.append(round_)
    return rounds
