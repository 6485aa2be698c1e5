"""A run that was saved anywhere goes on with everything that follows: hooks, evaluation, the end of an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from mmkd.callbacks import DecentralizedCallback
from mmkd.callbacks.recorder import Recorder
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAvg
from mmkd.topology import Star
from mmkd.types import ConfigError
from tests.grids import each_once
from tests.tiny import CLASSES, Eye, TinyData, schedule, sgd, trainer


class Everywhere(Checkpoint):
    """Saves wherever Lightning's own callbacks may save, those in the middle of an evaluation included."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self.folder, self.saved = folder, list[Path]()

    def save(self, trainer: Trainer, where: str) -> None:
        if self.folder is not None:
            self.saved.append(self.folder / f"{len(self.saved)}-{where}.ckpt")
            trainer.save_checkpoint(self.saved[-1])

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, "block")

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, "within")

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, "validated")

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, "epoch")


def go(folder: Path, rounds: int, save: Path | None, ckpt_path: Path | None = None, **options: Any) -> Any:
    """Two epochs; returns all that a run leaves, the mean loss of its last epoch, and the checkpoints."""
    cohort = Cohort({"eyes": Fleet(lambda n: Eye(n, optimizer=sgd(0.1)), 1)}, CLASSES, vectorize="never")
    callback = DecentralizedCallback(
        None, FedAvg(), Star(), schedule(local_steps=2, block=2, rounds_per_epoch=rounds)
    )
    recorder, saving = Recorder(folder), Everywhere(save)
    run = trainer(callback, recorder, saving, max_epochs=2, enable_checkpointing=True, **options)
    run.fit(cohort, datamodule=TinyData(batch_size=16), ckpt_path=ckpt_path)
    left = (
        {n: t.tolist() for n, t in cohort.state_dict().items()},
        recorder._curve,
        callback.ledger,
        run.global_step,
        run.current_epoch,
        run.fit_loop.epoch_loop._batches_that_stepped,
    )
    return left, run.callback_metrics.get("peer/eyes/0/train/loss"), saving.saved


OPTIONS: dict[str, dict[str, Any]] = {
    "every epoch": {},
    "every other epoch": {"check_val_every_n_epoch": 2},
    "never": {"limit_val_batches": 0},
    "within epochs": {"val_check_interval": 1},
    "half epochs": {"val_check_interval": 0.5},
}


@each_once(rounds=[1, 2], evaluates=OPTIONS)
def test_nothing_that_follows_is_left_out(tmp_path: Path, rounds: int, evaluates: dict[str, Any]) -> None:
    """Wherever a run was saved and goes on, saved again and gone on again, it ends as the undisturbed one."""
    whole, loss, saved = go(tmp_path / "whole", rounds, tmp_path / "whole", **evaluates)
    assert any("block" in path.name for path in saved)
    assert evaluates.get("limit_val_batches") == 0 or any("within" in path.name for path in saved)
    for path in saved[: 1 - len(saved) // 2]:  # the second epoch is as the first
        again = tmp_path / path.stem
        left, loss_again, later = go(again, rounds, again, path, **evaluates)
        assert (left, loss_again) == (whole, loss), path.name
        second = later[-2]
        assert go(again / "second", rounds, None, second, **evaluates)[0] == whole, (path, second)


def test_within_a_block_nothing_can_go_on(tmp_path: Path) -> None:
    class Late(Everywhere):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            self.save(trainer, "start")

        def on_before_optimizer_step(self, trainer: Trainer, *args: Any) -> None:
            self.save(trainer, "middle")

    cohort = Cohort({"eyes": Fleet(Eye, 1)}, CLASSES)
    saving = Late(tmp_path)
    run = trainer(saving, max_epochs=1, enable_checkpointing=True, limit_val_batches=0)
    run.fit(cohort, datamodule=TinyData(batch_size=16))
    middle = next(path for path in saving.saved if "middle" in path.name)
    assert set(torch.load(middle, weights_only=False)["state_dict"]) == set(cohort.state_dict())
    with pytest.raises(ConfigError, match="in the middle of a block of local steps, where no run can go on"):
        trainer(max_epochs=1).fit(
            Cohort({"eyes": Fleet(Eye, 1)}, CLASSES), datamodule=TinyData(batch_size=16), ckpt_path=middle
        )
