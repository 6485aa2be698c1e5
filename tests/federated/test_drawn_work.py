"""Local work that is drawn anew every round, as slow and busy devices would do it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.federated import FedAvg, FedLin, FedNova, Scaffold
from tests.federated.quadratics import Outcome, World, close
from tests.federated.test_closed_forms import RATE, UNIFORM, mean

ROUNDS = 6
DRAWN: dict[str, Any] = {"local_steps": {"q": [1, 4], "q/2": 3}}


def taken(out: Outcome) -> Tensor:
    """Local steps, ``[rounds, peers]``."""
    work = out.callback.coordinator._peers.timetable.work
    steps = [[float(work[f"q/{i}"].steps(r)) for i in range(4)] for r in range(ROUNDS)]
    return torch.tensor(steps, dtype=torch.float64)


def test_fednova_on_planes_with_drawn_work() -> None:
    world = World(linear=True)
    out = world.run(FedNova(), schedule=DRAWN, rounds=ROUNDS)
    steps = taken(out)
    assert steps[:, 2].eq(3).all()
    assert {1.0, 4.0} <= set(steps.flatten().tolist())
    close(out.w, world.start - RATE * (world.p * steps).sum() * mean(world.p, world.K))


def test_fedavg_on_planes_with_drawn_work() -> None:
    world = World(linear=True)
    out = world.run(FedAvg(), schedule=DRAWN, rounds=ROUNDS)
    close(out.w, world.start - RATE * mean(world.p, taken(out).sum(0)[:, None] * world.K))


@pytest.mark.leanest_too
@pytest.mark.parametrize("method", ["scaffold", "fedlin"])
def test_corrected_methods_with_drawn_work(method: str) -> None:
    """tau_i is this round's: SCAFFOLD divides by it what its controls add up to, FedLin its rate."""
    world = World()
    out = world.run(Scaffold() if method == "scaffold" else FedLin(), schedule=DRAWN, rounds=ROUNDS)
    x, c_i = world.start, torch.zeros_like(world.A)
    for tau in taken(out)[..., None]:
        rate = torch.full_like(tau, RATE) if method == "scaffold" else RATE / tau
        offset = mean(UNIFORM, c_i) - c_i
        if method == "fedlin":
            offset = mean(UNIFORM, world.gradient(x)) - world.gradient(x)
        bottom = world.B - offset / world.A
        y = bottom + (1 - rate * world.A) ** tau * (x - bottom)
        c_i = (x - y) / (tau * RATE) - offset
        x = mean(UNIFORM, y)
    close(out.w, x)
