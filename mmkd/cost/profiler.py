"""Where a local step goes: data, students, optimizers, exchange, logging, Lightning."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import Profiler

OURS = "[mmkd]"
"""What the cohort's own actions begin with; the rest is the part to which they belong."""


def timed(trainer: Trainer, part: str) -> AbstractContextManager[Any]:
    """Time a block as this part, if the trainer has a profiler."""
    block: AbstractContextManager[Any] = trainer.profiler.profile(OURS + part)  # type: ignore[attr-defined]  # set late
    return block


class StepProfiler(Profiler):
    """Adds up the time of each part of training, without what other parts take inside it.

    ``--trainer.profiler=mmkd.cost.profiler.StepProfiler`` prints the shares as training ends. Steps that
    are recorded find losses and gradients in one go, which then counts as forward.

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
        """Another part begins; the one around it stands still."""
        self._pass()
        self._open.append(_part(action_name, self._open[-1] if self._open else "start"))

    def stop(self, action_name: str) -> None:
        """It ends."""
        self._pass()
        self._open.pop()
        self.ticks += action_name == f"{OURS}optimizer"

    def _pass(self) -> None:
        now = time.perf_counter()
        if "epoch" in self._open:  # what comes before the first and after the last is no step
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
    """The part to which an action of Lightning's or of ours belongs; that around it, if it is of none."""
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
