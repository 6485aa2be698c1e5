"""A profiler of local steps: time of data, students, optimizers, exchange, logging and Lightning."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import Profiler

OURS = "[mmkd]"
"""Prefix of the names of the cohort's own actions; the part of a step follows it."""


def timed(trainer: Trainer, part: str) -> AbstractContextManager[Any]:
    """Time a block of code as this part of a step, if the trainer has a profiler."""
    block: AbstractContextManager[Any] = trainer.profiler.profile(OURS + part)  # type: ignore[attr-defined]  # set late
    return block


class StepProfiler(Profiler):
    """Adds up the time of each part of training, without the time of other parts inside it.

    ``--trainer.profiler=mmkd.cost.profiler.StepProfiler`` prints the shares as training ends. Recorded
    steps compute losses and gradients together, all of which counts as forward.

    Args:
        dirpath: folder of the file.
        filename: file to write to instead of the log.
    """

    def __init__(self, dirpath: str | Path | None = None, filename: str | None = None) -> None:
        super().__init__(dirpath, filename)
        self.seconds: dict[str, float] = defaultdict(float)
        self.ticks = 0
        self._open: list[str] = []
        self._since = 0.0

    def start(self, action_name: str) -> None:
        """Begin an action; the time of the action around it pauses."""
        self._pass()
        self._open.append(_part(action_name, self._open[-1] if self._open else "start"))

    def stop(self, action_name: str) -> None:
        """End an action; the time of the action around it goes on."""
        self._pass()
        self._open.pop()
        self.ticks += action_name == f"{OURS}optimizer"

    def _pass(self) -> None:
        now = time.perf_counter()
        if "epoch" in self._open:  # time before the first epoch and after the last is no step's
            part = self._open[-1]
            self.seconds["Lightning" if part == "epoch" else part] += now - self._since
        self._since = now

    def summary(self) -> str:
        """A table, the greatest part first; empty if nothing was trained."""
        if not self.ticks:
            return ""
        total = sum(self.seconds.values())
        rows = [f"{'part':24} {'ms a tick':>10} {'share':>7}"]
        for part, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            rows.append(f"{part:24} {1e3 * seconds / self.ticks:10.3f} {seconds / total:7.1%}")
        rows.append(f"{'all':24} {1e3 * total / self.ticks:10.3f} {1:7.1%}")
        return "\n".join([f"{self.ticks} ticks, one local step of every active peer each", *rows])


def _part(action: str, around: str) -> str:
    """The part to which an action of Lightning or of mmkd belongs; the part around it, if it has none."""
    if action == "run_training_epoch":
        return "epoch"
    if action.startswith(OURS):
        return action.removeprefix(OURS)
    if action.endswith("dataloader_next") or "transfer_batch_to_device" in action:
        return "data"
    if "validation" in action or "evaluat" in action or "val_next" in action:
        return "validation"
    if "save_checkpoint" in action or "ModelCheckpoint" in action:
        return "checkpoints"
    return around
