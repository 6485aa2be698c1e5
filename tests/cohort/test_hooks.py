"""What a student would do under a Trainer of its own, and a cohort never asks for."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.hooks import HOOKS, unheard
from mmkd.students import DetectionStudent
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, TinyData, fit, schedule, trainer


class Hooked(Eye):
    """Does much that nobody asks for, and what a cohort does ask for."""

    def on_train_batch_start(self, *args: Any) -> None: ...

    def on_after_backward(self) -> None: ...

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 2 * super().training_step(batch, batch_idx)

    def transfer_batch_to_device(self, batch: Any, *args: Any) -> Any:
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None: ...

    def private_loss(self, batch: Any) -> Tensor:
        return super().private_loss(batch)

    def configure_optimizers(self) -> Any:
        return super().configure_optimizers()


class Manual(Eye):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False


class Below(Hooked):
    """Inherits them."""


WRITTEN = {
    "training_step",
    "on_train_batch_start",
    "on_after_backward",
    "transfer_batch_to_device",
    "on_save_checkpoint",
}


def test_hooks_of_a_students_author_are_found() -> None:
    assert set(unheard(Hooked(CLASSES))) == set(unheard(Below(CLASSES))) == WRITTEN
    assert unheard(Manual(CLASSES)) == ["automatic_optimization"]
    shipped = [Eye(CLASSES), DetectionStudent(1, settings={"backbone": "test_resnet"})]
    assert [unheard(student) for student in shipped] == [[], []]
    assert {"optimizer_step", "on_before_optimizer_step", "configure_gradient_clipping"} < set(HOOKS)


def test_a_fleet_is_warned_of_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Cohort({"eyes": Fleet(Hooked, 3), "others": Fleet(lambda n: Eye(n), 2)}, CLASSES, init="own")
    (one,) = [str(w.message) for w in caught]
    assert "\n" not in one
    assert all(word in one for word in (*WRITTEN, "Hooked", "'eyes'", "private_loss", "callback"))


class Logs(Eye):
    def private_loss(self, batch: Any) -> Tensor:
        loss = super().private_loss(batch)
        self.log_dict({"part": loss.detach()})
        return loss


@pytest.mark.parametrize("vectorize", ["never", "always", "auto"])
def test_what_a_student_logs_in_a_cohort_is_refused(vectorize: Any) -> None:
    """Before anything trains, if there is a coordinator, for that counts operations first."""
    cohort = Cohort({"eyes": Fleet(lambda n: Logs(n), 2)}, CLASSES, vectorize=vectorize)
    with pytest.raises(
        ConfigError, match=r"Logs logs 'part' inside a cohort.*training_step.*callback"
    ) as error:
        fit(cohort, DecentralizedCallback(schedule=schedule()))
    assert "\n" not in str(error.value)


def test_a_student_that_trains_alone_logs() -> None:
    data = TinyData(batch_size=128, peers={"cameras/0": "image"})
    data.setup("fit")
    alone = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    alone.fit(Logs(CLASSES, drop=0.0), datamodule=data.only("cameras/0"))
    assert torch.equal(alone.callback_metrics["part"], alone.callback_metrics["train/loss"])
