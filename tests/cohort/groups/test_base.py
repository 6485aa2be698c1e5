"""What both ways of training a group have in common: its objective, what may leave a peer, clipping."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.quadratics import Point
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.cohort.groups.base import objective, travels
from mmkd.types import Batch, ConfigError, Target
from tests.tiny import CLASSES, FEATURES, Eye, fit, fleets, schedule, sgd


class Given(Eye):
    """Its losses are numbers, so what is made of them is known."""

    def private_loss(self, batch: Batch) -> Tensor:
        return torch.tensor(5.0)

    def losses(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        return (None if batch.y is None else torch.tensor(5.0)), torch.tensor(3.0)

    def taught_loss(self, batch: Batch) -> Tensor:
        return torch.tensor(3.0)


def test_labels_and_a_target_are_weighed_and_either_stands_alone() -> None:
    x, y, ids = torch.zeros(2, FEATURES), torch.zeros(2, dtype=torch.long), torch.arange(2)
    target, keep = Target(torch.ones(2, CLASSES) / CLASSES, torch.ones(2), True), torch.tensor(0.25)
    student = Given(CLASSES)
    assert float(objective(student, Batch(x, y, ids, 0))) == 5
    assert float(objective(student, Batch(x, None, ids, 0, target))) == 3
    assert float(objective(student, Batch(x, y, ids, 0, target, keep))) == 0.25 * 5 + 0.75 * 3


def test_who_can_learn_no_target_is_refused_by_name() -> None:
    student = Point(torch.zeros(2))
    batch = Batch(
        torch.zeros(1, 3, 2), torch.zeros(1), torch.arange(1), 0, Target(torch.ones(1, 2), torch.ones(1))
    )
    with pytest.raises(ConfigError, match="Point cannot learn from an oracle: derive it from Teachable"):
        objective(student, batch)


def test_what_travels_is_neither_personal_nor_frozen_nor_a_counter() -> None:
    student = Eye(CLASSES)
    student.net[0].bias.requires_grad_(False)
    weights = {"net.0.weight", "net.1.weight", "net.1.bias", "main.weight", "main.bias"}
    assert set(travels(student, buffers=False)) == weights
    assert set(travels(student, buffers=True)) == weights | {"net.1.running_mean", "net.1.running_var"}


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_clipping_is_per_peer(vectorize: Any) -> None:
    """With plain SGD at rate 1 the first step moves each peer by at most the limit, and a peer with a
    huge gradient takes nothing from the others: one scaled peer leaves the rest as they were."""
    limit = 0.01
    cohort = Cohort(fleets(drop=0.0, optimizer=sgd(1.0)), CLASSES, vectorize=vectorize, clip=limit)
    before = {n: copy.deepcopy(cohort.student(n)) for n in cohort.names}
    fit(cohort, max_steps=1, max_epochs=1, limit_train_batches=1,
        callback=DecentralizedCallback(schedule=schedule(local_steps=1, rounds_per_epoch=1)))  # fmt: skip
    for name, old in before.items():
        new = dict(cohort.student(name).named_parameters())
        moved = sum(float((new[n] - p).detach().square().sum()) for n, p in old.named_parameters()) ** 0.5
        # Every gradient here is far above the limit, so every peer moves by the limit itself.
        assert moved == pytest.approx(limit, rel=1e-3), name
