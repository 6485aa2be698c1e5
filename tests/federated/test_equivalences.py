"""Algorithms that must coincide, and what a correction passes through on its way to a local step.

Where a round has no formula, its local steps are written out from the definitions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from datamodules.quadratics import Point, Quadratics
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.blocks import PrivateBatches
from mmkd.federated import FedAvg, FedLin, FedNova, FedProx, FedShuffle, Mime, Scaffold
from mmkd.participation import Sampled
from mmkd.schedule import Schedule
from mmkd.topology import Star
from tests.federated.quadratics import DIM, World, close
from tests.federated.test_closed_forms import BOTH, RATE, STEPS, UNIFORM, mean, powers
from tests.grids import each_once
from tests.tiny import sgd, trainer

DECAY, LIMIT = 0.8, 2.0


def decayed(optimizer: Any) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: DECAY**step)


def walk(
    world: World, i: int, x: Tensor, *, offset: Any = 0.0, mu: float = 0.0, momentum: float = 0.0,
    v: Any = 0.0, clock: int = 0, decay: float = 1.0, limit: float | None = None,
) -> tuple[Tensor, Any, Any]:  # fmt: skip
    """Local steps of peer i: where they lead from ``x``, the mean raw gradient, the velocity."""
    y, raw = x, 0.0
    for t in range(STEPS[i]):
        g = world.gradient(y)[i]
        raw = raw + g / STEPS[i]
        g = g + offset + mu * (y - x)
        if limit is not None:
            assert g.norm() > 1e4 * limit
            g = limit * g / g.norm()
        v = momentum * v + g
        y = y - RATE * decay ** (clock + t) * v
    return y, raw, v


def uneven(*sizes: int) -> list[Tensor]:
    """Samples with curvatures, places and slopes of their own."""
    stream = torch.Generator().manual_seed(3)
    scale = torch.tensor([[1.0], [4.0], [2.0]], dtype=torch.float64)
    shift = torch.tensor([[0.5], [-2.0], [-1.0]], dtype=torch.float64)
    return [torch.rand(n, 3, DIM, generator=stream, dtype=torch.float64) * scale + shift for n in sizes]


def slope(samples: Tensor, w: Tensor) -> Tensor:
    """Gradient of the mean loss of some samples."""
    a, b, k = samples.unbind(1)
    return (a * (w - b) + k).mean(0)


# --- one local step of everybody -------------------------------------------------------------------

ONE_STEP: dict[str, Callable[[], Any]] = {
    "fedavg": FedAvg,
    "fedavg-uniform": partial(FedAvg, weights="uniform"),
    "fedprox": partial(FedProx, mu=0.7),
    "fednova": FedNova,
    "fednova-prox": partial(FedNova, mu=0.7),
    "fedshuffle": FedShuffle,
    "mime": partial(Mime, "sgd"),
    "scaffold-full": partial(Scaffold, "full"),
    "scaffold-mean": partial(Scaffold, "mean"),
    "scaffold-samples": partial(Scaffold, "mean", "samples"),
    "fedlin": FedLin,
    "fedlin-samples": partial(FedLin, weights="samples"),
}


@pytest.mark.parametrize("name", ONE_STEP)
def test_one_local_step_is_centralised_descent(name: str) -> None:
    """x <- x - eta sum p_i grad F_i(x): corrections sum to nothing, or are not there yet."""
    world, rounds, aggregation = World(), 4, ONE_STEP[name]()
    out = world.run(aggregation, rounds=rounds, schedule={"local_epochs": 1})
    p, x = UNIFORM if aggregation.weights == "uniform" else world.p, world.start
    for _ in range(rounds):
        x = x - RATE * mean(p, world.gradient(x))
    close(out.w, x)


# --- MIME and FedLin on minibatches ----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("steps", [STEPS, [4, 4, 4, 4]], ids=["unequal", "equal"])
def test_fedlin_on_minibatches(vectorize: str, steps: list[int]) -> None:
    """The same batch z at y and at x; MIME at rate eta / tau is the same where tau is."""
    world, rounds, samples = World(), 3, uneven(2, 5, 7, 11)
    run = partial(world.run, steps=steps, rounds=rounds, samples=samples, batch_size=3, vectorize=vectorize)
    data = Quadratics(samples, batch_size=3, drop_last=False, peers={f"q/{i}": "quadratic" for i in range(4)})
    x = world.start
    for r in range(rounds):
        g, ends = torch.stack([slope(s, x) for s in samples]).mean(0), []
        for i, tau in enumerate(steps):
            y, batches = x, PrivateBatches(data, f"q/{i}")
            for z in (batches[r * tau + t].x for t in range(tau)):
                y = y - RATE / tau * (slope(z, y) - slope(z, x) + g)
            ends.append(y)
        x = torch.stack(ends).mean(0)
    out = run(FedLin()).w
    close(out, x)
    if len(set(steps)) == 1:
        close(run(Mime("sgd", weights="uniform"), rate=RATE / steps[0]).w, out)


# --- FedNova with equal steps ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "kwargs"),
    [
        (sgd(RATE, momentum=0.9), {}),
        (sgd(RATE, momentum=0.9, nesterov=True), {}),
        (sgd(RATE, momentum=0.9), {"scheduler": decayed}),
        (sgd(RATE, momentum=0.9), {"participation": Sampled(count=2)}),
    ],
    ids=["heavy-ball", "nesterov", "decayed", "sampled"],
)
def test_fednova_with_equal_steps_is_fedavg(optimizer: Any, kwargs: dict[str, Any]) -> None:
    """Every reach is the same number, whatever optimizer and schedule make of it."""
    run = partial(World().run, steps=3, rounds=4, optimizer=optimizer, **kwargs)
    close(run(FedNova()).w, run(FedAvg()).w)


# --- linear terms that sum to zero -----------------------------------------------------------------


def tilted(seed: int = 5) -> World:
    """The same mean objective under uniform weights, and other objectives of the peers."""
    world = World()
    k = 2 * torch.rand(4, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    world.K = k - k.mean(0)
    return world


@pytest.mark.parametrize(
    ("aggregation", "rate", "rounds"),
    [
        (Scaffold("mean"), 0.4, 35),
        (Scaffold("full"), 0.4, 25),
        (FedLin(), 0.6, 40),
        (Mime("sgd", weights="uniform"), 0.4, 25),
    ],
    ids=["scaffold-mean", "scaffold-full", "fedlin", "mime"],
)
def test_slopes_that_sum_to_zero_move_no_corrected_limit(aggregation: Any, rate: float, rounds: int) -> None:
    """With unequal steps all of them come to rest at the optimum of the mean objective."""
    out = tilted().run(aggregation, steps=STEPS, rounds=rounds, rate=rate)
    close(out.w, World().optimum(UNIFORM))


def test_slopes_that_sum_to_zero_move_the_limit_of_fedavg() -> None:
    """They move the bottom of each quadratic by -k / A, and a limit is the mean of bottoms by 1 - r."""
    world = tilted()
    gone = 1 - powers(world, 0.3)
    rest = (gone * world.B).sum(0) / gone.sum(0)
    shift = -(gone * world.K / world.A).sum(0) / gone.sum(0)
    assert shift.abs().min() > 1e-2
    world.start = rest + shift  # a round is affine: who begins where it rests stays
    close(world.run(FedAvg(weights="uniform"), steps=STEPS, rounds=2, rate=0.3).w, world.start)


# --- corrections come before clipping and momentum -------------------------------------------------


def steep() -> World:
    """Gradients about 1e6 times longer than the clip, so that every step has the same length."""
    world = World()
    world.A *= 1e6
    return world


@BOTH
def test_fedprox_pulls_before_gradients_are_clipped(vectorize: str) -> None:
    world, rounds = steep(), 2
    out = world.run(FedProx(mu=1e7), steps=STEPS, rounds=rounds, clip=LIMIT, vectorize=vectorize)
    x = world.start
    for _ in range(rounds):
        x = mean(world.p, torch.stack([walk(world, i, x, mu=1e7, limit=LIMIT)[0] for i in range(4)]))
    close(out.w, x)


def scaffold(world: World, rounds: int, controls: str, *, keep: bool = False, **how: Any) -> list[Tensor]:
    """x, c and c_i after some rounds of everybody, uniformly weighed."""
    x, c, c_i, v = world.start, torch.zeros(DIM, dtype=torch.float64), torch.zeros_like(world.A), [0.0] * 4
    for r in range(rounds):
        walks = [
            walk(world, i, x, offset=c - c_i[i], v=v[i] if keep else 0.0, clock=r * STEPS[i], **how)
            for i in range(4)
        ]
        v = [end[2] for end in walks]
        c_i = world.gradient(x) if controls == "full" else torch.stack([end[1] for end in walks])
        x, c = torch.stack([end[0] for end in walks]).mean(0), c_i.mean(0)
    return [x, c, c_i]


def matches(out: Any, expected: list[Tensor]) -> None:
    close(out.w, expected[0])
    close(out.state["c"]["w"][0], expected[1])
    close(out.state["c_i"]["w"], expected[2])


@pytest.mark.leanest_too
@BOTH
@pytest.mark.parametrize("controls", ["mean", "full"])
def test_scaffold_corrects_before_gradients_are_clipped(vectorize: str, controls: Any) -> None:
    """And its controls are of gradients that are not clipped."""
    world, rounds = steep(), 3
    out = world.run(Scaffold(controls), steps=STEPS, rounds=rounds, clip=LIMIT, vectorize=vectorize)
    matches(out, scaffold(world, rounds, controls, limit=LIMIT))


def test_scaffold_on_steep_planes_goes_one_way_from_the_second_round_on() -> None:
    """There c_i is the slope, so what is clipped is c for every peer, and steps are LIMIT / |c| of it."""
    world = World(linear=True)
    world.K *= 1e6
    first, second = (world.run(Scaffold(), steps=STEPS, rounds=r, clip=LIMIT).w for r in (1, 2))
    slope = world.K.mean(0)
    mean_steps = sum(STEPS) / 4
    close(second - first, -RATE * mean_steps * LIMIT * slope / slope.norm())
    each = torch.tensor(STEPS, dtype=torch.float64)[:, None] * world.K / world.K.norm(dim=1, keepdim=True)
    close(first, world.start - RATE * LIMIT * each.mean(0))


@BOTH
def test_momentum_contains_the_proximal_pull(vectorize: str) -> None:
    world, rounds = World(), 2
    out = world.run(
        FedProx(mu=0.7), steps=STEPS, rounds=rounds, optimizer=sgd(RATE, momentum=0.9), vectorize=vectorize
    )
    x = world.start
    for _ in range(rounds):
        x = mean(world.p, torch.stack([walk(world, i, x, mu=0.7, momentum=0.9)[0] for i in range(4)]))
    close(out.w, x)


@pytest.mark.leanest_too
@BOTH
@pytest.mark.parametrize("optimizer_state", ["reset", "keep"])
def test_momentum_contains_the_controls(vectorize: str, optimizer_state: Any) -> None:
    world, rounds, keep = World(), 3, optimizer_state == "keep"
    out = world.run(
        Scaffold(optimizer_state=optimizer_state), steps=STEPS, rounds=rounds,
        optimizer=sgd(RATE, momentum=0.9), vectorize=vectorize,
    )  # fmt: skip
    matches(out, scaffold(world, rounds, "mean", momentum=0.9, keep=keep))
    assert (out.w - scaffold(world, rounds, "mean", momentum=0.9, keep=not keep)[0]).abs().max() > 1e-3


@BOTH
def test_scaffold_controls_are_gradients_whatever_the_schedule(vectorize: str) -> None:
    """Displacements over tau and the first rate would be shorter by the decay."""
    world, rounds = World(), 3
    out = world.run(Scaffold(), steps=STEPS, rounds=rounds, scheduler=decayed, vectorize=vectorize)
    matches(out, scaffold(world, rounds, "mean", decay=DECAY))


# --- adaptive local optimizers ---------------------------------------------------------------------

ADAPTIVE: dict[str, Any] = {
    "adam": partial(torch.optim.Adam, lr=0.1, betas=(0.8, 0.9), eps=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=0.1, betas=(0.8, 0.9), weight_decay=0.5),
}


@pytest.mark.leanest_too
@BOTH
@pytest.mark.parametrize(("name", "participation"), [("adam", Sampled(count=2)), ("adamw", None)])
def test_fedavg_of_adaptive_peers(vectorize: str, name: str, participation: Any) -> None:
    """Optimizer state is the peer's own: forgotten after each round, or kept until it takes part again."""
    world, rounds, make, ends = World(), 4, ADAPTIVE[name], {}
    for optimizer_state in ("reset", "keep"):
        out = world.run(
            FedAvg(optimizer_state=optimizer_state), steps=STEPS, rounds=rounds, optimizer=make,
            vectorize=vectorize, participation=participation,
        )  # fmt: skip
        attendance = out.callback._attendance
        x, y = world.start, [torch.nn.Parameter(world.start.clone()) for _ in range(4)]
        optimizers = [make([point]) for point in y]
        for r in range(rounds):
            present = [0, 1, 2, 3]
            if attendance is not None:
                present = sorted(int(name[2:]) for name in attendance.present(r))
            for i in present:
                y[i].data.copy_(x)
                if optimizer_state == "reset":
                    optimizers[i] = make([y[i]])
                for _ in range(STEPS[i]):
                    y[i].grad = world.gradient(y[i].data)[i]
                    optimizers[i].step()
            x = mean(world.p[present] / world.p[present].sum(), torch.stack([y[i].data for i in present]))
        close(out.w, x)
        ends[optimizer_state] = out.w
    assert (ends["reset"] - ends["keep"]).abs().max() > 1e-3


# --- gradients added up from parts of a batch ------------------------------------------------------

IN_PARTS: dict[str, Any] = {
    "fedprox": FedProx(mu=0.7),
    "scaffold": Scaffold("mean"),
    "mime": Mime("momentum"),
}


@each_once(name=list(IN_PARTS), vectorize=["always", "never"])
def test_a_batch_in_parts_is_corrected_once(vectorize: Any, name: str) -> None:
    """Batches of 2, of 5, of 5 and 2, and of 5, 5 and 1: in two and three parts, some of one sample."""
    world, ends = World(), []
    for parts in (1, 2, 3):
        aggregation = IN_PARTS[name]
        aggregation.among = "all"
        cohort = Cohort(
            {"q": Fleet(lambda n: Point(world.start, optimizer=sgd(RATE)), 4)}, 2,
            vectorize=vectorize, accumulate=parts,
        )  # fmt: skip
        work = Schedule(local_steps={f"q/{i}": n for i, n in enumerate(STEPS)})
        data = Quadratics(uneven(2, 5, 7, 11), batch_size=5, drop_last=False)
        callback = DecentralizedCallback(None, aggregation, Star(), work)
        trainer(callback, max_epochs=2, limit_val_batches=0).fit(cohort, datamodule=data)
        ends.append(cohort.axis.weights(cohort.names, buffers=False)["w"])
    close(ends[1], ends[0], 1e-12)
    close(ends[2], ends[0], 1e-12)
    assert (ends[0] - world.start).abs().min() > 1e-2
