"""Federated algorithms against formulas, through ``Trainer.fit``; quadratics and planes, float64, 1e-10.

On F_i(w) = A_i (w - b_i)^2 / 2, tau gradient steps at rate e carry w to b_i + r_i (w - b_i) with
r_i = (1 - e A_i)^tau. That is all the mathematics that most of these tests need.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from mmkd.encoding import Quantise, TopK
from mmkd.federated import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedLin,
    FedNova,
    FedProx,
    FedShuffle,
    FedYogi,
    Gossip,
    GradientTracking,
    Mime,
    PushSum,
    Scaffold,
)
from mmkd.participation import Sampled
from mmkd.topology import Complete, DirectedCycle, Ring, Star
from mmkd.types import ConfigError
from tests.federated.quadratics import DIM, World, close
from tests.tiny import sgd

RATE = 0.1
STEPS = [1, 2, 3, 5]
BOTH = pytest.mark.parametrize("vectorize", ["always", "never"])
UNIFORM = torch.full((4,), 0.25, dtype=torch.float64)


def mean(p: Tensor, rows: Tensor) -> Tensor:
    return (p[:, None] * rows).sum(0)


def powers(world: World, rate: float = RATE) -> Tensor:
    """r_i, ``[N, DIM]``."""
    return (1 - rate * world.A) ** torch.tensor(STEPS, dtype=torch.float64)[:, None]


# --- FedAvg and what the hub does ------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("topology", [Star(), Complete()], ids=["star", "complete"])
def test_fedavg_one_round(vectorize: str, topology: Any) -> None:
    world = World()
    out = world.run(FedAvg(), steps=STEPS, rate=RATE, vectorize=vectorize, topology=topology)
    close(out.w, mean(world.p, world.B + powers(world) * (world.start - world.B)))


def test_fedavg_rests_where_it_should_and_not_at_the_optimum() -> None:
    """A round is affine, so whoever begins at its point of rest stays there."""
    world = World()
    gone = 1 - powers(world)
    world.start = (gone * world.B).sum(0) / gone.sum(0)
    close(world.run(FedAvg(weights="uniform"), steps=STEPS, rounds=2).w, world.start)
    assert (world.start - world.optimum(UNIFORM)).abs().max() > 0.01


def test_given_weights() -> None:
    world = World(linear=True)
    given = {"q/0": 1.0, "q/1": 0.0, "q/2": 3.0, "q/3": 4.0}
    p = torch.tensor([1.0, 0, 3, 4], dtype=torch.float64) / 8
    close(world.run(FedAvg(weights=given)).w, world.start - RATE * mean(p, world.K))


def test_server_rate_and_momentum() -> None:
    world, rounds = World(linear=True), 4
    out = world.run(FedAvg(server_lr=0.5, server_momentum=0.9), rounds=rounds, steps=3)
    step = -3 * RATE * mean(world.p, world.K)
    m = x = torch.zeros(DIM, dtype=torch.float64)
    for _ in range(rounds):
        m = 0.9 * m + step
        x = x + 0.5 * m
    close(out.w, world.start + x)


@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
def test_adaptive_hubs_on_planes(kind: Any) -> None:
    world, rounds = World(linear=True), 3
    out = world.run(kind(server_lr=0.3, betas=(0.8, 0.95), tau=0.01), rounds=rounds, steps=2)
    d = -2 * RATE * mean(world.p, world.K)  # the same in every round
    x, v = world.start, torch.full_like(d, 0.01**2)
    for t in range(1, rounds + 1):
        if kind is FedAdagrad:
            v = v + d**2
        elif kind is FedAdam:
            v = 0.95 * v + 0.05 * d**2
        else:
            v = v - 0.05 * d**2 * (v - d**2).sign()
        x = x + 0.3 * (1 - 0.8**t) * d / (v.sqrt() + 0.01)  # m_t = (1 - b1^t) d, not corrected
    close(out.w, x)


# --- corrections of local gradients ----------------------------------------------------------------


@pytest.mark.leanest_too
@BOTH
def test_fedprox_one_round(vectorize: str) -> None:
    world, mu = World(), 0.7
    out = world.run(FedProx(mu=mu), steps=STEPS, vectorize=vectorize)
    target = (world.A * world.B + mu * world.start) / (world.A + mu)
    r = (1 - RATE * (world.A + mu)) ** torch.tensor(STEPS, dtype=torch.float64)[:, None]
    close(out.w, mean(world.p, target + r * (world.start - target)))


def test_fedprox_without_pull_is_fedavg() -> None:
    close(*(World().run(a, steps=STEPS, rounds=3).w for a in (FedProx(mu=0.0), FedAvg())))


def scaffold_by_hand(world: World, present: list[list[int]], controls: str, p: Tensor) -> tuple[Tensor, ...]:
    """x, c and c_i after some rounds: offsets c - c_i shift each quadratic's bottom to b - (c - c_i)/A."""
    x, c, c_i = world.start, torch.zeros(DIM, dtype=torch.float64), torch.zeros_like(world.A)
    tau = torch.tensor(STEPS, dtype=torch.float64)[:, None]
    for rows in present:
        bottom = world.B - (c - c_i) / world.A
        y = bottom + powers(world) * (x - bottom)
        # The mean raw gradient is what the steps add up to, less the offset.
        new = (x - y) / (tau * RATE) - (c - c_i) if controls == "mean" else world.gradient(x)
        s = torch.tensor(rows)
        x = x + mean(p[s], (y - x)[s]) / p[s].sum()
        c = c + mean(p[s], (new - c_i)[s])
        c_i = c_i.clone()
        c_i[s] = new[s]
    return x, c, c_i


@pytest.mark.leanest_too
@BOTH
@pytest.mark.parametrize("controls", ["mean", "full"])
@pytest.mark.parametrize("weights", ["uniform", "samples"])
def test_scaffold_rounds(vectorize: str, controls: Any, weights: Any) -> None:
    world = World()
    p = UNIFORM if weights == "uniform" else world.p
    out = world.run(Scaffold(controls, weights), steps=STEPS, rounds=3, vectorize=vectorize)
    x, c, c_i = scaffold_by_hand(world, [[0, 1, 2, 3]] * 3, controls, p)
    close(out.w, x)
    close(out.state["c"]["w"][0], c)
    close(out.state["c_i"]["w"], c_i)


@pytest.mark.leanest_too
@pytest.mark.parametrize("controls", ["mean", "full"])
def test_scaffold_with_sampled_peers(controls: Any) -> None:
    world, rounds = World(), 7
    out = world.run(Scaffold(controls), steps=STEPS, rounds=rounds, participation=Sampled(count=2))
    attendance = out.callback._attendance
    present = [sorted(int(n[2:]) for n in attendance.present(r)) for r in range(rounds)]
    assert len({tuple(rows) for rows in present}) > 2
    x, c, c_i = scaffold_by_hand(world, present, controls, UNIFORM)
    close(out.w, x)
    close(out.state["c"]["w"][0], c)
    close(out.state["c"]["w"][0], out.state["c_i"]["w"].mean(0))  # of all peers, sampled or not
    close(out.state["c_i"]["w"], c_i)


def test_scaffold_with_one_sampled_peer_and_one_step_is_saga() -> None:
    world, rounds = World(), 20
    out = world.run(Scaffold("full"), steps=1, rounds=rounds, participation=Sampled(count=1))
    x, table = world.start, torch.zeros_like(world.A)
    for r in range(rounds):
        (name,) = out.callback._attendance.present(r)
        i = int(name[2:])
        g = world.gradient(x)[i]
        x, average = x - RATE * (g - table[i] + table.mean(0)), table.clone()
        average[i] = g
        table = average
    close(out.w, x)


@BOTH
@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("base", ["sgd", "momentum", "adam"])
def test_mime_with_one_step_is_the_centralised_optimizer(vectorize: str, base: Any, lite: bool) -> None:
    world, rounds = World(), 4
    out = world.run(
        Mime(base, betas=(0.8, 0.9), eps=0.5, v0=0.3, lite=lite), rounds=rounds, vectorize=vectorize
    )
    x, m, v = world.start, torch.zeros(DIM, dtype=torch.float64), torch.full((DIM,), 0.3, dtype=torch.float64)
    for _ in range(rounds):
        g = mean(world.p, world.gradient(x))
        if base == "sgd":
            x = x - RATE * g
            continue
        m = 0.8 * m + 0.2 * g
        x = x - RATE * (m / (v.sqrt() + 0.5) if base == "adam" else m)  # v lags a round
        v = 0.9 * v + 0.1 * g**2
    close(out.w, x)


def test_mime_at_rate_over_steps_is_fedlin() -> None:
    mime = World().run(Mime("sgd", weights="uniform"), steps=4, rate=RATE / 4, rounds=5)
    close(mime.w, World().run(FedLin(), steps=4, rate=RATE, rounds=5).w)


def test_fedlin_one_round() -> None:
    world = World()
    out = world.run(FedLin(), steps=STEPS)
    g = mean(UNIFORM, world.gradient(world.start))
    bottom = world.B - (g - world.gradient(world.start)) / world.A
    tau = torch.tensor(STEPS, dtype=torch.float64)[:, None]
    r = (1 - RATE / tau * world.A) ** tau
    close(out.w, mean(UNIFORM, bottom + r * (world.start - bottom)))


@pytest.mark.long
def test_fedlin_reaches_the_optimum_with_sparse_answers_and_not_with_sparse_gradients() -> None:
    world = World()
    answers, gradients = (
        world.run(FedLin(**{what: TopK(1 / DIM)}), steps=STEPS, rounds=70, rate=0.3).w
        for what in ("gradient_answers", "gradients")
    )
    close(answers, world.optimum(UNIFORM))
    assert (gradients - world.optimum(UNIFORM)).abs().max() > 1e-3


def test_fedlin_says_later_what_was_left_out() -> None:
    """On planes gradients stay the same, so what peers and hub said and what they kept must add up."""
    world, rounds = World(linear=True), 7
    out = world.run(FedLin(gradients=TopK(1 / DIM), gradient_answers=TopK(1 / DIM)), rounds=rounds)
    unsaid = out.state["e"]["w"][0] + out.state["controls unsaid"]["w"].mean(0)
    close(out.w - RATE * unsaid, world.start - rounds * RATE * mean(UNIFORM, world.K))


# --- FedNova ---------------------------------------------------------------------------------------

LINEAR = {
    "sgd": sgd(RATE),
    "momentum": sgd(RATE, momentum=0.9),
    "dampened": sgd(RATE, momentum=0.5, dampening=0.3),
    "nesterov": sgd(RATE, momentum=0.8, nesterov=True),
}


def half_life(optimizer: Any) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 0.5**step)


def reach(kind: str, steps: int, *, decay: bool, mu: float) -> float:
    """Displacement on a unit gradient, from the definitions of the optimizers."""
    y = velocity = 0.0
    for t in range(steps):
        rate, g = RATE * (0.5**t if decay else 1), 1 + mu * y
        momentum, dampening = {"momentum": (0.9, 0), "dampened": (0.5, 0.3), "nesterov": (0.8, 0)}.get(
            kind, (0, 0)
        )
        velocity = g if t == 0 else momentum * velocity + (1 - dampening) * g
        y -= rate * (g + momentum * velocity if kind == "nesterov" else velocity if momentum else g)
    return -y


@BOTH
@pytest.mark.parametrize("mu", [0.0, 0.3])
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("kind", LINEAR)
def test_fednova_on_planes_is_one_step_along_the_mean_slope(
    vectorize: str, kind: str, decay: bool, mu: float
) -> None:
    world = World(linear=True)
    out = world.run(
        FedNova(mu=mu), steps=STEPS, optimizer=LINEAR[kind], vectorize=vectorize,
        scheduler=half_life if decay else None,
    )  # fmt: skip
    reaches = torch.tensor([reach(kind, n, decay=decay, mu=mu) for n in STEPS], dtype=torch.float64)
    if mu:  # with a proximal term it is tau_i that counts
        applied = [[RATE * (0.5**t if decay else 1) for t in range(n)] for n in STEPS]
        reaches = torch.tensor([sum(rates) for rates in applied], dtype=torch.float64)
    close(out.w, world.start - (world.p * reaches).sum() * mean(world.p, world.K))


def test_fednova_with_equal_steps_is_fedavg() -> None:
    close(*(World().run(a, steps=3, rounds=3).w for a in (FedNova(), FedAvg())))


def test_fednova_removes_the_bias_towards_many_steps_but_not_client_drift() -> None:
    """At rest sum p_i (1 - r_i) / tau_i (b_i - x) = 0: off the optimum by O(eta), FedAvg by O(1)."""
    world, best = World(), World().optimum(UNIFORM)
    gone = 1 - powers(world, 1e-2)
    fedavg = (gone * world.B).sum(0) / gone.sum(0)
    gone = gone / torch.tensor(STEPS, dtype=torch.float64)[:, None]
    world.start = (gone * world.B).sum(0) / gone.sum(0)
    close(world.run(FedNova(weights="uniform"), steps=STEPS, rate=1e-2, rounds=2).w, world.start)
    assert (world.start - best).norm() < 0.05 * (fedavg - best).norm()


# --- FedShuffle ------------------------------------------------------------------------------------


def planes(world: World) -> list[Tensor]:
    """Samples with slopes of their own: peer i owns n_i of them, which a batch of 3 does not divide."""
    stream = torch.Generator().manual_seed(7)
    drawn = []
    for n in (2, 4, 7, 9):
        x = torch.zeros(n, 3, DIM, dtype=torch.float64)
        x[:, 2] = torch.rand(n, DIM, generator=stream, dtype=torch.float64)
        drawn.append(x)
    return drawn


@pytest.mark.leanest_too
@BOTH
@pytest.mark.parametrize("epochs", [1, 3])
def test_fedshuffle_moves_along_the_mean_slope_however_much_a_peer_owns(vectorize: str, epochs: int) -> None:
    world = World(linear=True)
    samples = planes(world)
    out = world.run(
        FedShuffle(), samples=samples, batch_size=3, schedule={"local_epochs": epochs}, vectorize=vectorize
    )
    slopes = torch.stack([x[:, 2].mean(0) for x in samples])
    p = torch.tensor([2.0, 4, 7, 9], dtype=torch.float64) / 22
    close(out.w, world.start - RATE * mean(p, slopes))


@pytest.mark.parametrize("weighted", [False, True])
def test_fedshuffle_does_not_renormalise_over_the_sampled(weighted: bool) -> None:
    world, rounds = World(linear=True), 5
    out = world.run(FedShuffle(), rounds=rounds, schedule={"local_epochs": 1},
                    participation=Sampled(count=2, weighted=weighted))  # fmt: skip
    q = 2 * world.p if weighted else torch.full((4,), 0.5, dtype=torch.float64)
    x = world.start
    for r in range(rounds):
        rows = torch.tensor(sorted(int(n[2:]) for n in out.callback._attendance.present(r)))
        x = x - RATE * mean((world.p / q)[rows], world.K[rows])
    close(out.w, x)


def test_fedshuffle_with_variance_reduction() -> None:
    world, rounds, a = World(), 4, 0.4
    out = world.run(FedShuffle(momentum=a), rounds=rounds, schedule={"local_epochs": 1})
    x, m, before = world.start, torch.zeros(DIM, dtype=torch.float64), None
    for _ in range(rounds):
        g = mean(world.p, world.gradient(x))
        m = g if before is None else g + a * (m - mean(world.p, world.gradient(before)))
        # One step a peer: v = g_i(x) + a (m - g_i(x)).
        before, x = x, x - RATE * ((1 - a) * g + a * m)
    close(out.w, x)


# --- gossip ----------------------------------------------------------------------------------------


def ring(size: int) -> Tensor:
    """Metropolis-Hastings on a ring: everybody has two neighbours, so all weights are a third."""
    itself = torch.eye(size, dtype=torch.float64)
    return (itself + itself.roll(1, 0) + itself.roll(-1, 0)) / 3


@BOTH
@pytest.mark.parametrize("order", ["adapt_first", "combine_first"])
def test_gossip_orders(vectorize: str, order: Any) -> None:
    world = World(5)
    out = world.run(Gossip(order), topology=Ring(), init="own", rounds=3, vectorize=vectorize)
    w = ring(5)
    x = out.first
    for _ in range(3):
        g = RATE * world.gradient(x)
        x = w @ (x - g) if order == "adapt_first" else w @ x - g
    close(out.w, x)


@BOTH
def test_push_sum_keeps_its_mass_and_the_sum_of_what_it_weighs(vectorize: str) -> None:
    world = World(5)
    out = world.run(PushSum(), topology=DirectedCycle(), init="own", rate=0.0, rounds=4, vectorize=vectorize)
    mass = out.state["w"]["mass"]
    close(mass.sum(), torch.tensor(5.0, dtype=torch.float64))
    close((mass * out.w).mean(0), out.first.mean(0))
    assert (out.w - out.first).abs().max() > 0.1


def test_push_sum_one_round() -> None:
    world = World(5)
    participation = Sampled(count=3)
    out = world.run(PushSum(), topology=DirectedCycle(), init="own", rounds=6, participation=participation)
    assert float(out.state["w"]["mass"].sum()) == pytest.approx(5, abs=1e-12)
    heard = DirectedCycle().adjacency([f"q/{i}" for i in range(5)], 0)
    x, w = out.first, torch.ones(5, dtype=torch.float64)
    for r in range(6):
        s = torch.tensor(sorted(int(n[2:]) for n in out.callback._attendance.present(r)))
        a = heard[s][:, s].double() + torch.eye(3, dtype=torch.float64)
        a = a / a.sum(0)
        z = a @ (x[s] * w[s, None] - RATE * world.gradient(x)[s])
        x, w = x.clone(), w.clone()
        w[s] = a @ w[s]
        x[s] = z / w[s, None]
    close(out.w, x)


# --- compression -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [TopK(1 / DIM), Quantise(4), Quantise(8)], ids=["top", "4", "8"])
def test_error_feedback_telescopes(compression: Any) -> None:
    """What was heard and what is yet unsaid add up to what was to be said; on planes that is known."""
    world, rounds = World(linear=True), 6
    out = world.run(FedAvg(compression=compression), rounds=rounds, steps=2)
    unsaid = mean(world.p, out.state["weights unsaid"]["w"])
    close(out.w[0] + unsaid, world.start - rounds * 2 * RATE * mean(world.p, world.K))
    assert unsaid.abs().max() > 0


@pytest.mark.parametrize("rounds", [6, pytest.param(600, marks=pytest.mark.long)])
def test_choco_gossip_keeps_the_mean_and_reaches_it(rounds: int) -> None:
    world = World(5)
    out = world.run(
        Gossip(compression=TopK(1 / DIM, error_feedback=False), gamma=0.3),
        topology=Ring(), init="own", rate=0.0, rounds=rounds,
    )  # fmt: skip
    close(out.w.mean(0), out.first.mean(0))
    apart = (out.w - out.w.mean(0)).norm() / (out.first - out.first.mean(0)).norm()
    assert 0.1 < apart < 1 if rounds == 6 else apart < 1e-10


# --- for every algorithm ---------------------------------------------------------------------------

HUB: dict[str, Any] = {
    "fedavg": FedAvg,
    "fedavgm": lambda **k: FedAvg(server_lr=0.7, server_momentum=0.5, **k),
    "compressed": lambda **k: FedAvg(compression=TopK(0.4), **k),
    "fedprox": lambda **k: FedProx(mu=0.5, **k),
    "scaffold": lambda **k: Scaffold("mean", **k),
    "scaffold-full": lambda **k: Scaffold("full", **k),
    "fednova": FedNova,
    "fedadagrad": lambda **k: FedAdagrad(tau=0.1, **k),
    "fedadam": lambda **k: FedAdam(tau=0.1, **k),
    "fedyogi": lambda **k: FedYogi(tau=0.1, **k),
    "mime": lambda **k: Mime("momentum", **k),
    "mime-adam": lambda **k: Mime("adam", **k),
    "mimelite": lambda **k: Mime("momentum", lite=True, **k),
    "fedlin": FedLin,
    "fedshuffle": FedShuffle,
    "fedshuffle-mvr": lambda **k: FedShuffle(momentum=0.3, **k),
}


@pytest.mark.parametrize(
    ("name", "participation"),
    [(n, p) for n in HUB for p in (None, Sampled(count=2)) if p is None or n != "fedlin"],
)
def test_without_local_movement_nothing_moves(name: str, participation: Any) -> None:
    out = World().run(HUB[name](), rate=0.0, steps=STEPS, rounds=3, participation=participation)
    assert torch.equal(out.w, out.first)


@pytest.mark.parametrize("name", [n for n in HUB if n != "fedavg"])
def test_the_method_matters(name: str) -> None:
    """A correction that does nothing passes every smoke test."""
    plain = World().run(FedAvg(), steps=STEPS, rounds=3).w
    assert (World().run(HUB[name](), steps=STEPS, rounds=3).w - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", HUB)
def test_vectorised_is_one_after_the_other(name: str) -> None:
    a, b = (
        World().run(HUB[name](), steps=STEPS, rounds=3, vectorize=v, participation=None)
        for v in ("always", "never")
    )
    close(a.w, b.w)


@pytest.mark.parametrize(
    ("aggregation", "kwargs", "said"),
    [
        (FedNova(), {"optimizer": torch.optim.Adam}, "SGD as local optimizer"),
        (FedNova(), {"clip": 1.0}, "clipped gradients"),
        (FedNova(), {"optimizer": sgd(0.1, weight_decay=0.1)}, "weight decay"),
        (FedNova(optimizer_state="keep"), {"optimizer": sgd(0.1, momentum=0.9)}, "begin afresh"),
        (Mime(), {"optimizer": sgd(0.1, momentum=0.9)}, "without momentum"),
        (FedLin(), {"participation": Sampled(count=2)}, "every peer in every round"),
        (Scaffold(), {"topology": Ring()}, "topology Star or Complete"),
        (Scaffold(), {"topology": Complete(), "participation": Sampled(count=2)}, "needs a hub"),
        (Scaffold(), {"init": "own"}, "set model.init to shared"),
        (GradientTracking(), {"steps": 2, "topology": Ring()}, "one local step"),
        (FedAvg(weights={"q/0": 1.0}), {}, "says nothing about q/1, q/2, q/3"),
        (FedAvg(), {"participation": Sampled(count=5)}, "cannot draw 5 of a cluster of 4"),
    ],
)
def test_what_has_no_meaning_is_refused(aggregation: Any, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        World().run(aggregation, **kwargs)


@pytest.mark.parametrize(
    ("name", "up", "down"),
    [
        ("fedavg", 1, 1), ("fedprox", 1, 1), ("scaffold", 2, 2), ("fedadam", 1, 1), ("mime", 2, 3),
        ("mime-adam", 2, 4), ("mimelite", 2, 2), ("fedlin", 2, 2), ("fedshuffle", 1, 1), ("fedshuffle-mvr", 2, 2),
    ],
)  # fmt: skip
def test_bytes_are_those_of_the_table(name: str, up: int, down: int) -> None:
    table = World().run(HUB[name](), rounds=3).callback.ledger.by_kind()
    table.pop("framing")
    size = 3 * 4 * DIM * 8  # rounds, peers, float64
    assert sum(row.get("up", 0) for row in table.values()) == up * size
    assert sum(row.get("down", 0) for row in table.values()) == down * size


def test_a_sampled_round_costs_only_those_who_are_there() -> None:
    ledger = World().run(FedAvg(), rounds=5, participation=Sampled(count=2)).callback.ledger.by_kind()
    # Two send in each round; two hear at the end of the first four, and all four after the last.
    assert ledger["weights"] == {"up": 5 * 2 * DIM * 8, "down": (4 * 2 + 4) * DIM * 8}
