"""Each row steps as if it had an optimizer to itself: its own rate, its own clock, or no step at all."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups.local_optimizer import LocalOptimizer
from mmkd.cohort.groups.row_optimizer import RowOptimizer
from tests.tiny import CLASSES, Eye, TinyDataDouble, adam_steps, fit, fleets, schedule, sgd


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_a_peer_that_sits_out_stays_as_it_is(vectorize: Any) -> None:
    """With fewer local steps a peer's weights, counters and optimizer state match a shorter run."""
    cohort = Cohort(fleets(drop=0.0), CLASSES, vectorize=vectorize)
    work = schedule(local_steps={"cameras": 6, "cameras/0": 2, "microphones": 6}, rounds_per_epoch=1)
    fit(cohort, DecentralizedCallback(schedule=work), max_epochs=1)
    short = Cohort(fleets(drop=0.0), CLASSES, vectorize=vectorize)
    fit(short, DecentralizedCallback(schedule=schedule(local_steps=2, rounds_per_epoch=1)), max_epochs=1)
    name = "cameras/0"
    tolerance = 0.0 if vectorize == "never" else 1e-6
    for n, tensor in short.student(name).state_dict().items():
        torch.testing.assert_close(
            cohort.student(name).state_dict()[n], tensor, rtol=tolerance, atol=tolerance
        )
    assert adam_steps(cohort, name) == adam_steps(short, name) == {2}
    assert adam_steps(cohort, "cameras/1") == {6}


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_learning_rates_are_per_peer(vectorize: Any) -> None:
    """One SGD step from equal weights on the same data: the displacement is proportional to the rate."""
    scales = [1.0, 0.5, 0.0] if vectorize == "never" else [1.0, 0.5, 2.0]
    peers = {"cameras": Fleet(lambda n: Eye(n, drop=0.0, optimizer=sgd(0.1)), 3, None, scales)}
    cohort = Cohort(peers, CLASSES, vectorize=vectorize).double()

    class Same(TinyDataDouble):
        def private(self, peer: str, split: str) -> Any:
            return self.held_out

        def assign(self, peers: Any, ids: Any = None) -> None:
            super().assign(peers, dict.fromkeys(peers, "one"))

    start = copy.deepcopy(cohort.student("cameras/0"))
    fit(cohort, DecentralizedCallback(schedule=schedule(local_steps=1, rounds_per_epoch=1)),
        Same(batch_size=16), max_epochs=1)  # fmt: skip
    for n, p in start.named_parameters():
        base = dict(cohort.student("cameras/0").named_parameters())[n] - p
        for k, scale in enumerate(scales):
            moved = dict(cohort.student(f"cameras/{k}").named_parameters())[n] - p
            torch.testing.assert_close(moved, scale * base, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),
        partial(torch.optim.Adam, lr=0.1, weight_decay=0.1),
        partial(torch.optim.NAdam, lr=0.1),
        partial(torch.optim.Adagrad, lr=0.1, initial_accumulator_value=0.2),
    ],
    ids=lambda make: make.func.__name__,
)
def test_rows_rest_and_parameters_freeze_and_thaw_as_in_optimizers_of_their_own(make: Any) -> None:
    """Three rows with two parameters, each reached now and then; saved and loaded in between."""
    draw = torch.Generator().manual_seed(0)
    begin = [torch.randn(3, *shape, generator=draw, dtype=torch.float64) for shape in ((2, 3), (4,))]
    stacked = [torch.nn.Parameter(t.clone()) for t in begin]
    alone = [[torch.nn.Parameter(t[row].clone()) for t in begin] for row in range(3)]
    # Each row's optimizer is asked for a row's parameters, which then are the stacks.
    own = [make(parameters) for parameters in alone]

    def rows() -> RowOptimizer:
        return RowOptimizer([LocalOptimizer(make(stacked), None) for _ in range(3)])

    names = {p: str(i) for i, p in enumerate(stacked)}
    engine = rows()
    for t in range(14):
        stepping = [row for row in range(3) if bool(torch.rand((), generator=draw) < 0.7)]
        reached = [bool(torch.rand((), generator=draw) < 0.6) for _ in stacked]
        gradients = [torch.randn(p.shape, generator=draw, dtype=torch.float64) for p in stacked]
        for p, g, there in zip(stacked, gradients, reached, strict=True):
            p.grad = g.clone() if there else None
        if stepping:
            engine.step(stepping)
        for row in stepping:
            for p, g, there in zip(alone[row], gradients, reached, strict=True):
                p.grad = g[row].clone() if there else None
            own[row].step()
        if t == 7:
            saved, engine = [engine.saved(row, names) for row in range(3)], rows()
            for row in range(3):
                engine.load(row, names, saved[row])
        for i, p in enumerate(stacked):
            for row in range(3):
                torch.testing.assert_close(p[row], alone[row][i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_an_optimizer_of_many_peers_holds_each_parameter_once(vectorize: Any, tmp_path: Path) -> None:
    """As torch's contract is; its groups are called by the peers, whoever gives them names of their own."""

    def two_groups(parameters: Any) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "name": "first"}, {"params": rest}], lr=0.1)

    cohort = Cohort(
        {"cameras": Fleet(lambda n: Eye(n, optimizer=two_groups), 3)}, CLASSES, vectorize=vectorize
    )
    fit(cohort, max_epochs=1, extra=[monitor := LearningRateMonitor()], logger=CSVLogger(tmp_path))
    groups = cohort.optimizers().param_groups  # type: ignore[union-attr]  # one
    held = [p for group in groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(list(cohort.parameters()))
    assert [g["name"] for g in groups] == [
        f"cameras/{i}/{part}" for i in range(3) for part in ("first", "pg2")
    ]
    assert list(monitor.lrs) == [f"lr-CohortOptimizer/{group['name']}" for group in groups]
