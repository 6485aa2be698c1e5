"""A warm-up in equal steps, then half a cosine."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from mmkd.functional.rates import warmup_cosine


def test_a_warm_up_takes_equal_steps_to_one() -> None:
    assert [warmup_cosine(t, 3, 10) for t in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_cosine_is_that_of_torch(floor: float) -> None:
    """From 1 to the floor over seven steps; then it stays, where torch's climbs again."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    schedule = CosineAnnealingLR(optimizer, 7, eta_min=floor)
    for t in range(8):
        assert warmup_cosine(t + 3, 3, 10, floor) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert warmup_cosine(99, 3, 10, floor) == pytest.approx(floor)


def test_without_room_for_a_cosine_there_is_the_floor() -> None:
    assert warmup_cosine(0, 0, 0, 0.5) == pytest.approx(1.0)
    assert warmup_cosine(1, 0, 0, 0.5) == pytest.approx(0.5)
