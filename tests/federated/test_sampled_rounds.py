"""Rounds in which peers sit out, by hand: who was there is read from the run, the rest is derived.

A peer that is there begins at the hub's x, wherever it was left when it was there last.
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
from mmkd.encoding import TopK
from mmkd.federated import (
    FedAdam,
    FedAvg,
    FedBuff,
    FedNova,
    FedProx,
    FedShuffle,
    Gossip,
    GradientTracking,
    Mime,
    PushSum,
    Scaffold,
)
from mmkd.participation import Sampled, Trace
from mmkd.schedule import Schedule
from mmkd.topology import DirectedCycle, ErdosRenyi, RandomMatching, Ring, Star
from mmkd.types import ConfigError
from tests.federated.quadratics import DIM, Outcome, World, close
from tests.federated.test_closed_forms import BOTH, RATE, STEPS, UNIFORM, mean, powers, scaffold_by_hand
from tests.tiny import sgd, trainer

ROUNDS = 6
TWO = Sampled(count=2)
FLOAT = 8
"""Bytes."""


def attended(callback: DecentralizedCallback, rounds: int = ROUNDS) -> list[list[int]]:
    """Who was there in which round."""
    attendance = callback._attendance
    assert attendance is not None
    return [sorted(int(name[2:]) for name in attendance.present(r)) for r in range(rounds)]


def present(out: Outcome, rounds: int = ROUNDS, count: int = 2) -> list[Tensor]:
    """The same of a draw, which must have been one."""
    rows = attended(out.callback, rounds)
    assert len({tuple(s) for s in rows}) > 2
    assert {len(s) for s in rows} == {count}
    return [torch.tensor(s) for s in rows]


def shared(p: Tensor, s: Tensor) -> Tensor:
    """P renormalised over those present."""
    return p[s] / p[s].sum()


# --- what the hub does with those who are there ----------------------------------------------------


def fedavg(world: World, x: Tensor, s: Tensor) -> Tensor:
    """Mean displacement of those present."""
    return mean(shared(world.p, s), ((1 - powers(world)) * (world.B - x))[s])


@BOTH
def test_fedavg(vectorize: str) -> None:
    world = World()
    out = world.run(FedAvg(), steps=STEPS, rounds=ROUNDS, participation=TWO, vectorize=vectorize)
    x = world.start
    for s in present(out):
        x = x + fedavg(world, x, s)
    close(out.w, x)


@BOTH
def test_fedbuff_moves_once_enough_updates_have_come(vectorize: str) -> None:
    """Two peers a round and a buffer of three: x moves in every second round, by the mean of four updates."""
    world = World()
    out = world.run(FedBuff(3), steps=STEPS, rounds=ROUNDS, participation=TWO, vectorize=vectorize)
    x, held = world.start, list[Tensor]()
    for s in present(out):
        held += list(((1 - powers(world)) * (world.B - x))[s])
        if len(held) >= 3:
            x, held = x + torch.stack(held).mean(0), []
    close(out.w, x)


def test_fedavgm_remembers_rounds_and_not_peers() -> None:
    world = World()
    out = world.run(FedAvg(server_lr=0.7, server_momentum=0.5), steps=STEPS, rounds=ROUNDS, participation=TWO)
    x, m = world.start, torch.zeros(DIM, dtype=torch.float64)
    for s in present(out):
        m = 0.5 * m + fedavg(world, x, s)
        x = x + 0.7 * m
    close(out.w, x)


def test_fedadam_remembers_rounds_and_not_peers() -> None:
    world = World()
    out = world.run(
        FedAdam(server_lr=0.3, betas=(0.8, 0.95), tau=0.1), steps=STEPS, rounds=ROUNDS, participation=TWO
    )
    x, m, v = world.start, torch.zeros(DIM, dtype=torch.float64), 0.1**2
    for s in present(out):
        d = fedavg(world, x, s)
        m, v = 0.8 * m + 0.2 * d, 0.95 * v + 0.05 * d**2
        x = x + 0.3 * m / (v.sqrt() + 0.1)
    close(out.w, x)


def test_fedprox() -> None:
    world, mu = World(), 0.7
    out = world.run(FedProx(mu=mu), steps=STEPS, rounds=ROUNDS, participation=TWO)
    x, tau = world.start, torch.tensor(STEPS, dtype=torch.float64)[:, None]
    r = (1 - RATE * (world.A + mu)) ** tau
    for s in present(out):
        target = (world.A * world.B + mu * x) / (world.A + mu)
        x = mean(shared(world.p, s), (target + r * (x - target))[s])
    close(out.w, x)


def test_fednova() -> None:
    """d_i = (x - y_i) / (eta tau_i), and tau_eff is the mean over those present."""
    world = World()
    out = world.run(FedNova(), steps=STEPS, rounds=ROUNDS, participation=TWO)
    x, tau = world.start, torch.tensor(STEPS, dtype=torch.float64)
    for s in present(out):
        d = (1 - powers(world)) * (x - world.B) / (RATE * tau[:, None])
        share = shared(world.p, s)
        x = x - RATE * (share * tau[s]).sum() * mean(share, d[s])
    close(out.w, x)


@BOTH
def test_fednova_reads_the_clock_of_each_peer(vectorize: str) -> None:
    """Rates decay with the steps that a peer has taken, and who sat out is behind; on planes d_i is K_i."""
    world, clock = World(linear=True), [0] * 4
    out = world.run(
        FedNova(), steps=STEPS, rounds=ROUNDS, participation=TWO, vectorize=vectorize,
        scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: 0.9**step),
    )  # fmt: skip
    x = world.start
    for s in present(out):
        reach = torch.zeros(4, dtype=torch.float64)
        for i in s.tolist():
            reach[i] = sum(RATE * 0.9**t for t in range(clock[i], clock[i] + STEPS[i]))
            clock[i] += STEPS[i]
        share = shared(world.p, s)
        x = x - (share * reach[s]).sum() * mean(share, world.K[s])
    close(out.w, x)


@pytest.mark.leanest_too
@BOTH
@pytest.mark.parametrize("lite", [False, True])
def test_mime(vectorize: str, lite: bool) -> None:
    """c is the mean over those present; nobody else computes a gradient."""
    world = World()
    out = world.run(
        Mime("momentum", betas=(0.8, 0.9), lite=lite), steps=STEPS, rounds=ROUNDS, participation=TWO,
        vectorize=vectorize,
    )  # fmt: skip
    x, m = world.start, torch.zeros(DIM, dtype=torch.float64)
    for s in present(out):
        at_x, share = world.gradient(x), shared(world.p, s)
        c, y = mean(share, at_x[s]), x.expand(4, DIM).clone()
        for i in s.tolist():
            for _ in range(STEPS[i]):
                d = world.gradient(y)[i] - (0 if lite else at_x[i] - c)
                y[i] = y[i] - RATE * (0.2 * d + 0.8 * m)
        x, m = mean(share, y[s]), 0.8 * m + 0.2 * c
    close(out.w, x)
    close(out.state["m"]["w"][0], m)


@pytest.mark.leanest_too
@pytest.mark.parametrize("weighted", [False, True])
def test_fedshuffle_with_variance_reduction(weighted: bool) -> None:
    """Of 2, 4, 6 and 8 samples in batches of 3; those present weigh p / q, and some hear x_prev late."""
    world, a, epochs = World(), 0.4, 2
    out = world.run(
        FedShuffle(momentum=a), rounds=ROUNDS, schedule={"local_epochs": epochs}, batch_size=3,
        participation=Sampled(count=2, weighted=weighted),
    )  # fmt: skip
    batches = [[2], [3, 1], [3, 3], [3, 3, 2]]
    q = torch.tensor([0.2, 0.4, 0.6, 0.8] if weighted else [0.5] * 4, dtype=torch.float64)
    x, m, before = world.start, torch.zeros(DIM, dtype=torch.float64), None
    for s in present(out):
        w, at_x, y = (world.p / q)[s], world.gradient(x), x.expand(4, DIM).clone()
        m = mean(w, at_x[s]) + a * (m - (mean(w, world.gradient(before)[s]) if before is not None else 0))
        for i in s.tolist():
            for size in batches[i] * epochs:
                v = world.gradient(y)[i] + a * (m - at_x[i])
                y[i] = y[i] - RATE * size / (sum(batches[i]) * epochs) * v
        before, x = x, x + mean(w, (y - x)[s])
    close(out.w, x)
    close(out.state["m"]["w"][0], m)


@BOTH
@pytest.mark.parametrize("controls", ["mean", "full"])
def test_scaffold_weighed_by_samples(vectorize: str, controls: Any) -> None:
    """C is sum p_i c_i over all, also over those who were not there."""
    world = World()
    out = world.run(
        Scaffold(controls, "samples"), steps=STEPS, rounds=ROUNDS, participation=TWO, vectorize=vectorize
    )
    x, c, c_i = scaffold_by_hand(world, [s.tolist() for s in present(out)], controls, world.p)
    close(out.w, x)
    close(out.state["c_i"]["w"], c_i)
    close(out.state["c"]["w"][0], c)
    close(out.state["c"]["w"][0], mean(world.p, out.state["c_i"]["w"]))
    assert (c - c_i.mean(0)).abs().max() > 1e-2


@pytest.mark.long  # its rounds by hand are above
def test_scaffold_weighed_by_samples_still_reaches_the_optimum() -> None:
    world = World()
    out = world.run(Scaffold("mean", "samples"), steps=STEPS, rounds=150, rate=0.3, participation=TWO)
    close(out.w, world.optimum(world.p))


# --- without a hub ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["adapt_first", "combine_first"])
def test_gossip_among_those_present(order: Any) -> None:
    """Of the ring a path is left, or an edge and a lone peer, and there degrees are counted."""
    world = World(5)
    out = world.run(
        Gossip(order), topology=Ring(), init="own", rounds=ROUNDS, steps=[1, 2, 3, 5, 2],
        participation=Sampled(count=3),
    )  # fmt: skip
    r = (1 - RATE * world.A) ** torch.tensor([1.0, 2, 3, 5, 2], dtype=torch.float64)[:, None]
    x, degrees = out.first, set()
    for rows in present(out, count=3):
        s = rows.tolist()
        heard = {k: [j for j in s if (j - k) % 5 in (1, 4)] for k in s}
        degrees |= {tuple(sorted(map(len, heard.values())))}
        w = torch.eye(5, dtype=torch.float64)
        for k in s:
            for j in heard[k]:
                w[k, j] = 1 / (1 + max(len(heard[k]), len(heard[j])))
                w[k, k] -= w[k, j]
        y = x.clone()
        y[s] = (world.B + r * (x - world.B))[s]
        x = w @ y if order == "adapt_first" else w @ x + (y - x)
    assert degrees == {(0, 1, 1), (1, 1, 2)}
    close(out.w, x)


# --- rounds without anybody ------------------------------------------------------------------------

COME_AND_GO = Trace(
    {"q/0": [[0, 1]], "q/1": [[0, 0], [3, 3]], "q/2": [[1, 1]], "q/3": [[3, 3]]}
)  # 0 and 1, 0 and 2, nobody, 1 and 3, nobody
WHO = [[0, 1], [0, 2], [1, 3]]


@pytest.mark.leanest_too
@BOTH
def test_empty_rounds_change_nothing_and_cost_nothing(vectorize: str) -> None:
    world = World()
    out = world.run(FedAvg(), steps=STEPS, rounds=5, participation=COME_AND_GO, vectorize=vectorize)
    assert attended(out.callback, 5) == [*WHO[:2], [], WHO[2], []]
    x = world.start
    for s in WHO:
        x = x + fedavg(world, x, torch.tensor(s))
    close(out.w, x)
    assert torch.equal(out.w, out.w[:1].expand_as(out.w))
    # 0 and 2 hear the end of round 0, 1 and 3 fetch before round 3, and at last all hear how it ended.
    assert out.callback.ledger.by_kind()["weights"] == {
        "up": 6 * DIM * FLOAT,
        "down": (2 + 2 + 4) * DIM * FLOAT,
    }


@pytest.mark.parametrize("controls", ["mean", "full"])
def test_scaffold_over_empty_rounds(controls: Any) -> None:
    """C is told with the weights, but not at the very end, when nobody will use it."""
    world = World()
    out = world.run(Scaffold(controls), steps=STEPS, rounds=5, participation=COME_AND_GO)
    x, c, c_i = scaffold_by_hand(world, WHO, controls, UNIFORM)
    close(out.w, x)
    close(out.state["c"]["w"][0], c)
    close(out.state["c_i"]["w"], c_i)
    table = out.callback.ledger.by_kind()
    assert table["weights"] == {"up": 6 * DIM * FLOAT, "down": (2 + 2 + 4) * DIM * FLOAT}
    assert table["controls"] == {"up": 6 * DIM * FLOAT, "down": (2 + 2) * DIM * FLOAT}


# --- compression -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fedavg", "fedshuffle"])
def test_error_feedback_telescopes_over_a_peers_own_rounds(name: str) -> None:
    """What i said and has yet to say is -eta K_i for each of its N_i rounds, and always weighs the same.

    That is 1/2 of two equals present, or p_i / q_i. So x_T + sum w_i unsaid_i = x_0 - eta sum w_i N_i K_i.
    """
    world, rounds = World(linear=True), 9
    make: Callable[..., Any] = partial(FedAvg, weights="uniform") if name == "fedavg" else FedShuffle
    w = torch.full((4,), 0.5, dtype=torch.float64) if name == "fedavg" else world.p / 0.5
    out = world.run(
        make(compression=TopK(1 / DIM)), rounds=rounds, participation=TWO,
        schedule={"local_epochs": 1},
    )  # fmt: skip
    times = torch.bincount(torch.cat(present(out, rounds)), minlength=4).double()
    assert times.min() > 0
    assert times.unique().numel() > 1
    unsaid = out.state["weights unsaid"]["w"]
    assert unsaid.abs().sum(1).min() > 0
    close(out.w + mean(w, unsaid), world.start - RATE * mean(w * times, world.K))


def test_scaffold_keeps_c_at_the_mean_of_what_was_heard() -> None:
    """Compressed and sampled, c is still sum p_i c_i of the controls that the hub knows."""
    world = World()
    out = world.run(
        Scaffold("mean", "samples", compression=TopK(1 / DIM)), steps=STEPS, rounds=ROUNDS, participation=TWO
    )
    close(out.state["c"]["w"][0], mean(world.p, out.state["c_i"]["w"]))
    assert out.state["c"]["w"].abs().max() > 1e-2


# --- refused, and what looks like it ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kwargs", "said"),
    [
        (
            lambda: FedAvg(weights={"q/0": 0.0, "q/1": 1.0, "q/2": 1.0, "q/3": 1.0}),
            {"participation": TWO},
            "weight 0",
        ),
        (FedAvg, {"participation": Sampled(count=2, weighted=True)}, "both count sizes"),
        (FedProx, {"participation": Sampled(count=2, weighted=True)}, "both count sizes"),
        (
            FedShuffle,
            {"participation": COME_AND_GO, "schedule": {"local_epochs": 1}},
            "which a trace does not have",
        ),
        (FedShuffle, {"steps": 3, "batch_size": 3}, "count rounds in schedule.local_epochs"),
        (Gossip, {}, "Gossip needs no hub"),
        (PushSum, {}, "PushSum needs no hub"),
        (GradientTracking, {}, "GradientTracking needs no hub"),
        (lambda: Gossip(compression=TopK(0.5)), {"topology": RandomMatching()}, "same neighbours in every"),
        (
            lambda: Gossip(compression=TopK(0.5)),
            {"topology": Ring(), "participation": TWO},
            "same neighbours in every",
        ),
        (GradientTracking, {"topology": Ring(), "participation": TWO}, "every peer in every round"),
        (FedProx, {"topology": ErdosRenyi(1.0, every=1)}, "everybody to hear everybody"),
        (Gossip, {"topology": DirectedCycle()}, "needs an undirected graph"),
        (GradientTracking, {"topology": DirectedCycle()}, "needs an undirected graph"),
        (lambda: FedAvg(weights={"q/9": 1.0}), {}, "names 'q/9', which is no peer"),
        (FedAvg, {"participation": Trace({"q/9": [[0, 1]]})}, "names 'q/9', which is no peer"),
    ],
)
def test_what_has_no_meaning_is_refused(make: Callable[[], Any], kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        World().run(make(), **kwargs)


def test_gossip_takes_no_weights() -> None:
    """They are the graph's."""
    with pytest.raises(TypeError, match="weights"):
        Gossip(weights="uniform")


def test_sizes_may_be_counted_by_the_draw_alone() -> None:
    """Drawn by size and uniformly weighed, or divided by the chance (see ``test_fedshuffle...``)."""
    world = World()
    out = world.run(
        FedAvg(weights="uniform"), steps=STEPS, rounds=ROUNDS, participation=Sampled(count=2, weighted=True)
    )
    x = world.start
    for s in present(out):
        x = x + ((1 - powers(world)) * (world.B - x))[s].mean(0)
    close(out.w, x)


def test_a_peer_of_no_cluster_trains_in_every_round() -> None:
    """Two of three are drawn; the fourth goes its own way, neither heard nor told, and is never drawn."""
    world = World()
    names = ["q/0", "q/1", "q/2"]
    cohort = Cohort({"q": Fleet(lambda n: Point(world.start, optimizer=sgd(RATE)), 4)}, 2, vectorize="always")
    callback = DecentralizedCallback(
        None, FedAvg(among={"some": names}), Star(),
        Schedule(local_steps={f"q/{i}": n for i, n in enumerate(STEPS)}), participation=TWO,
    )  # fmt: skip
    whole = torch.stack([world.A, world.B, world.K], 1)
    data = Quadratics([whole[i].expand(int(n), 3, DIM) for i, n in enumerate(world.n)], drop_last=False)
    trainer(callback, max_epochs=ROUNDS, limit_val_batches=0).fit(cohort, datamodule=data)
    w = cohort.axis.weights(cohort.names, buffers=False)["w"]
    r, x, drawn = powers(world), world.start, set()
    for rows in attended(callback):
        assert rows[-1] == 3
        assert len(rows) == 3
        s = torch.tensor(rows[:2])
        drawn.add(tuple(rows[:2]))
        x = x + fedavg(world, x, s)
    assert len(drawn) > 1
    close(w[:3], x)
    close(w[3], world.B[3] + r[3] ** ROUNDS * (world.start - world.B[3]))
    assert all("q/3" not in (entry.sender, entry.receiver) for entry in callback.ledger.entries())
