"""A callback that writes down when each round ends, for ``network.py`` and ``links.py``."""

from __future__ import annotations

import os
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mmkd.cohort import Cohort

PAUSE = "0.03"
"""Seconds that a round takes longer, as training does, if ``SOAK_PAUSE`` says nothing else."""


class Rounds(Callback):
    """Appends the time and the round to the file that ``SOAK_ROUNDS`` names.

    Seconds of computing, of all threads of the process, go to a file beside it.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a line, if the block ends a round in which this process takes part."""
        assert isinstance(pl_module, Cohort)
        if not batch.steps or not pl_module.timetable.ends_round(batch.steps[-1].tick):
            return
        round_ = pl_module.timetable.round_of(batch.steps[-1].tick)
        if round_ >= pl_module.begins:
            time.sleep(float(os.environ.get("SOAK_PAUSE", PAUSE)))
            with open(os.environ["SOAK_ROUNDS"], "a") as file:
                file.write(f"{time.time()} {round_}\n")
            with open(os.environ["SOAK_ROUNDS"] + ".cpu", "a") as file:
                file.write(f"{time.process_time()}\n")
