"""Schedules: the scale multiplies what comes out of them, and a checkpoint keeps all that they turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD, Adam, Optimizer
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import SWALR

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups.local_optimizer import LocalOptimizer, local_optimizer
from mmkd.types import ConfigError
from tests.grids import pairwise
from tests.tiny import CLASSES, Eye, fit, schedule

SCHEDULES: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "LambdaLR": lambda o: LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: MultiStepLR(o, [2, 5], 0.5),
    "ConstantLR": lambda o: ConstantLR(o, 0.25, 4),
    "LinearLR": lambda o: LinearLR(o, 0.1, 1.0, 6),
    "ExponentialLR": lambda o: ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: PolynomialLR(o, 9, 2.0),
    "CosineAnnealingLR": lambda o: CosineAnnealingLR(o, 9),
    "CosineAnnealingLR, bounded": lambda o: CosineAnnealingLR(o, 9, eta_min=0.05),
    "CosineAnnealingWarmRestarts": lambda o: CosineAnnealingWarmRestarts(o, 4, eta_min=0.01),
    "CyclicLR": lambda o: CyclicLR(o, 0.01, 0.3, step_size_up=3, cycle_momentum="momentum" in o.defaults),
    "OneCycleLR": lambda o: OneCycleLR(o, max_lr=0.5, total_steps=14),
    "SequentialLR": lambda o: SequentialLR(o, [LinearLR(o, 0.1, 1.0, 4), CosineAnnealingLR(o, 8)], [4]),
    "ChainedScheduler": lambda o: ChainedScheduler([LinearLR(o, 0.1, 1.0, 4), ExponentialLR(o, 0.9)]),
    "SWALR": lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=5),
}
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": partial(SGD, lr=0.1, momentum=0.9),
    "Adam": partial(Adam, lr=0.01),
}
STEPS = 12


def local(kind: str, optimizer: str, scale: float) -> LocalOptimizer:
    engine = OPTIMIZERS[optimizer]([torch.nn.Parameter(torch.zeros(1))])
    return LocalOptimizer(engine, SCHEDULES[kind](engine), scale)


def walk(one: LocalOptimizer, steps: int) -> list[list[dict[str, Any]]]:
    """Settings before each step."""
    seen = []
    for _ in range(steps):
        seen.append(one.settings)
        one.optimizer.step()
        one.advance()
    return seen


def test_every_schedule_of_torch_is_tried() -> None:
    known = {name for name, kind in vars(torch_schedules).items() if isinstance(kind, type)}
    tried = {name.partition(",")[0] for name in SCHEDULES}
    meant = {name for name in known if name.endswith(("LR", "Scheduler", "Restarts"))}
    assert meant - tried == {"LRScheduler", "_LRScheduler"} & meant


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_scale_multiplies_what_comes_out_and_a_resume_is_exact(kind: str, optimizer: str) -> None:
    """Times a power of two to the bit, whatever the schedule does; momentum and betas are as without it."""
    plain = walk(local(kind, optimizer, 1.0), STEPS)
    for scale in (1.0, 0.5, 4.0, 0.3):
        scaled = walk(local(kind, optimizer, scale), STEPS)
        for (one,), (other,) in zip(plain, scaled, strict=True):
            assert other["lr"] == one["lr"] * scale
            assert {n: v for n, v in other.items() if n != "lr"} == {
                n: v for n, v in one.items() if n != "lr"
            }
        for stop in (1, 4, 7):
            first = local(kind, optimizer, scale)
            walk(first, stop)
            resumed = local(kind, optimizer, scale)
            resumed.load_state_dict(first.state_dict())
            assert walk(resumed, STEPS - stop) == scaled[stop:]


def test_a_rate_that_is_set_by_hand_is_the_scaled_one() -> None:
    """Half of it next, as ExponentialLR says; the scale is in it already."""
    engine = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    one = LocalOptimizer(engine, ExponentialLR(engine, 0.5), 4.0)
    engine.param_groups[0]["lr"] = 0.8
    engine.step()
    one.advance()
    assert engine.param_groups[0]["lr"] == pytest.approx(0.4)


def test_a_schedule_that_waits_for_a_metric_is_refused() -> None:
    student = Eye(CLASSES, scheduler=lambda optimizer: ReduceLROnPlateau(optimizer))  # type: ignore[arg-type, return-value]  # a user may
    with pytest.raises(ConfigError, match="ReduceLROnPlateau waits for a metric"):
        local_optimizer(student)


class Rates(Callback):
    """What monitors see after each block of one local step."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[str, float]]] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.seen.append([(g["name"], g["lr"]) for g in trainer.optimizers[0].param_groups])


@pairwise(
    kind=["CosineAnnealingLR, bounded", "OneCycleLR", "SequentialLR", "ChainedScheduler"],
    vectorize=["always", "never"],
    optimizer=OPTIMIZERS,
)
def test_peers_of_a_cohort_step_at_the_scaled_rates(kind: str, vectorize: Any, optimizer: Any) -> None:
    """Monitors see them by the names of peers."""
    make = lambda n: Eye(n, drop=0.0, optimizer=optimizer, scheduler=SCHEDULES[kind])  # noqa: E731  # short
    cohort = Cohort({"a": Fleet(make, 2, None, [1.0, 0.5])}, CLASSES, vectorize=vectorize)
    rates = Rates()
    when = schedule(local_steps=6, block=1, rounds_per_epoch=1)
    fit(cohort, DecentralizedCallback(schedule=when), extra=[rates], max_epochs=1)
    engine = optimizer([torch.nn.Parameter(torch.zeros(1))])
    plain = [s[0]["lr"] for s in walk(LocalOptimizer(engine, SCHEDULES[kind](engine)), 7)]
    assert rates.seen == [[("a/0", lr), ("a/1", lr / 2)] for lr in plain[1:]]
