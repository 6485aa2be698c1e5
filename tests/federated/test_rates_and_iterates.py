"""Where algorithms come to rest at a finite rate, how fast they get there, and rounds written out by hand.

A round of most of them is affine, so after n rounds the distance to the point of rest is a power of a
number or of a matrix; coordinates do not meet, so each has its own.
"""

from __future__ import annotations

from functools import partial
from math import cos, pi
from typing import Any

import networkx
import pytest
import torch
from torch import Tensor

from mmkd.encoding import TopK
from mmkd.federated import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedLin,
    FedProx,
    FedYogi,
    Gossip,
    GradientTracking,
    Mime,
    PushSum,
    Scaffold,
)
from mmkd.topology import DirectedCycle, Hypercube, NetworkX, Path, Ring
from tests.federated.quadratics import DIM, World, close
from tests.federated.test_closed_forms import BOTH, RATE, STEPS, UNIFORM, mean, powers, ring

FIVE = [1, 2, 3, 5, 2]


def solve(matrices: Tensor, rows: Tensor) -> Tensor:
    """The point of rest of each coordinate, ``[N, DIM]``, from ``[DIM, N, N]`` and ``[DIM, N]``."""
    return torch.linalg.solve(matrices, rows).T


def diagonals(rows: Tensor) -> Tensor:
    """``[DIM, N, N]`` from ``[N, DIM]``."""
    return torch.diag_embed(rows.T)


# --- points of rest --------------------------------------------------------------------------------


def test_fedprox_comes_to_rest_between_the_bottoms_by_how_far_each_is_reached() -> None:
    """y - x = (1 - r) (t - x) = (1 - r) A / (A + mu) (b - x), where t is the bottom of the pulled loss."""
    world, mu = World(), 0.7
    tau = torch.tensor(STEPS, dtype=torch.float64)[:, None]
    reached = (1 - (1 - 0.3 * (world.A + mu)) ** tau) * world.A / (world.A + mu)
    world.start = rest = (reached * world.B).sum(0) / reached.sum(0)
    close(world.run(FedProx(mu=mu, weights="uniform"), steps=STEPS, rounds=2, rate=0.3).w, rest)
    gone = 1 - powers(world, 0.3)
    assert (rest - (gone * world.B).sum(0) / gone.sum(0)).abs().max() > 1e-2  # FedAvg's
    assert (rest - world.optimum(UNIFORM)).abs().max() > 1e-2


@pytest.mark.parametrize("order", ["adapt_first", "combine_first"])
def test_gossip_rests_where_its_own_round_leaves_it(order: Any) -> None:
    """x = W (b + r (x - b)), or x = W x - (1 - r) (x - b): not the optimum, and no consensus."""
    world, w, one, rounds = World(5), ring(5), torch.eye(5, dtype=torch.float64), 6
    out = world.run(Gossip(order), topology=Ring(), init="own", rounds=rounds, rate=0.2, steps=FIVE)
    r = (1 - 0.2 * world.A) ** torch.tensor(FIVE, dtype=torch.float64)[:, None]
    gone = (1 - r) * world.B
    if order == "adapt_first":
        m, rest = w @ diagonals(r), solve(one - w @ diagonals(r), (w @ gone).T)
    else:
        m, rest = w - diagonals(1 - r), solve(one - w + diagonals(1 - r), gone.T)
    apart = torch.linalg.matrix_power(m, rounds) @ (out.first - rest).T[..., None]
    close(out.w, rest + apart[..., 0].T)
    assert torch.linalg.eigvals(m).abs().max() < 1
    assert (rest - rest.mean(0)).abs().max() > 0.1


# --- rounds by hand --------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("base", ["sgd", "momentum", "adam"])
def test_mime_with_unequal_steps(vectorize: str, base: Any, lite: bool) -> None:
    """Statistics stand still while peers walk, and see c once a round; v begins at 0.3."""
    world, rounds = World(), 3
    out = world.run(
        Mime(base, betas=(0.8, 0.9), eps=0.5, v0=0.3, lite=lite),
        steps=STEPS, rounds=rounds, vectorize=vectorize,
    )  # fmt: skip
    x, m, v = world.start, torch.zeros(DIM, dtype=torch.float64), torch.full((DIM,), 0.3, dtype=torch.float64)
    for _ in range(rounds):
        at_x = world.gradient(x)
        c, y = mean(world.p, at_x), x.expand(4, DIM).clone()
        for i, tau in enumerate(STEPS):
            for _ in range(tau):
                d = world.gradient(y)[i] - (0 if lite else at_x[i] - c)
                u = d if base == "sgd" else 0.2 * d + 0.8 * m
                y[i] = y[i] - RATE * (u / (v.sqrt() + 0.5) if base == "adam" else u)
        x, m, v = mean(world.p, y), 0.8 * m + 0.2 * c, 0.9 * v + 0.1 * c**2
    close(out.w, x)
    if base != "sgd":
        close(out.state["m"]["w"][0], m)
    if base == "adam":
        close(out.state["v"]["w"][0], v)


@pytest.mark.parametrize("lite", [False, True])
def test_mime_adam_begins_at_the_first_square(lite: bool) -> None:
    """Without v0, v = c^2 before and after the first round, so one step is along sign(c)."""
    world = World()
    out = world.run(Mime("adam", betas=(0.0, 0.9), eps=0.0, lite=lite))
    c = mean(world.p, world.gradient(world.start))
    close(out.w, world.start - RATE * c.sign())
    close(out.state["v"]["w"][0], c**2)


@pytest.mark.leanest_too
@BOTH
def test_gradient_tracking_rounds(vectorize: str) -> None:
    """x <- W (x - eta s), s <- W s + g(x+) - g(x); s began as g, and its mean stays that of g."""
    world, w, rounds = World(5), ring(5), 6
    out = world.run(GradientTracking(), topology=Ring(), init="own", rounds=rounds, vectorize=vectorize)
    x = before = out.first
    s = world.gradient(x)
    for r in range(rounds):
        if r:
            s = w @ s + world.gradient(x) - world.gradient(before)
        before, x = x, w @ (x - RATE * s)
    close(out.w, x)
    close(out.state["s"]["w"], w @ s)  # what is kept has been averaged
    close(out.state["s"]["w"].mean(0), world.gradient(before).mean(0))


def uneven_digraph() -> networkx.DiGraph:
    """A directed cycle of five whose first peer is heard by two more."""
    return networkx.DiGraph([(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2), (0, 3)])


def pushes() -> Tensor:
    """On it the first gives a quarter to each and to itself, the others a half."""
    a = torch.diag(torch.tensor([1 / 4, 1 / 2, 1 / 2, 1 / 2, 1 / 2], dtype=torch.float64))
    a[1, 0] = a[2, 0] = a[3, 0] = 1 / 4
    a[2, 1] = a[3, 2] = a[4, 3] = a[0, 4] = 1 / 2
    return a


def top(row: Tensor) -> Tensor:
    """Its largest entry, in absolute value, alone."""
    kept = torch.zeros_like(row)
    kept[row.abs().argmax()] = row[row.abs().argmax()]
    return kept


def neighbours(k: int) -> list[int]:
    return [(k - 1) % 5, (k + 1) % 5]


@pytest.mark.parametrize("order", ["adapt_first", "combine_first"])
def test_choco_rounds(order: Any) -> None:
    """Every peer keeps a replica of itself and of each neighbour, which hear the same q and stay equal."""
    world, rounds, gamma = World(5), 5, 0.4
    out = world.run(
        Gossip(order, compression=TopK(1 / DIM), gamma=gamma), topology=Ring(), init="own",
        rounds=rounds, steps=FIVE,
    )  # fmt: skip
    r = (1 - RATE * world.A) ** torch.tensor(FIVE, dtype=torch.float64)[:, None]
    x = out.first
    replica = {(k, j): torch.zeros(DIM, dtype=torch.float64) for k in range(5) for j in (k, *neighbours(k))}
    for _ in range(rounds):
        y = world.B + r * (x - world.B)
        half = y if order == "adapt_first" else x
        q = [top(half[j] - replica[j, j]) for j in range(5)]
        for k, j in replica:
            replica[k, j] = replica[k, j] + q[j]
        moved = [gamma * sum(replica[k, j] - replica[k, k] for j in neighbours(k)) / 3 for k in range(5)]
        x = y + torch.stack(moved)
    close(out.w, x)
    assert (x - torch.stack([replica[k, k] for k in range(5)])).abs().max() > 0.1


def test_compressed_push_sum_rounds() -> None:
    """z moves by gamma (A z^ - z^) and the mass, sent as it is, by gamma (A w - w)."""
    world, rounds, gamma = World(5), 5, 0.4
    out = world.run(
        PushSum(compression=TopK(1 / DIM), gamma=gamma), topology=NetworkX(uneven_digraph()), init="own",
        rounds=rounds,
    )  # fmt: skip
    a, x = pushes(), out.first
    hat, mass = torch.zeros_like(x), torch.ones(5, dtype=torch.float64)
    for _ in range(rounds):
        z = x * mass[:, None] - RATE * world.gradient(x)
        hat = hat + torch.stack([top(row) for row in z - hat])
        z, mass = z + gamma * (a @ hat - hat), mass + gamma * (a @ mass - mass)
        x = z / mass[:, None]
    close(out.w, x)
    close(out.state["w"]["mass"].flatten(), mass)
    assert (mass - 1).abs().max() > 0.1


def test_compressed_gradient_tracking_rounds() -> None:
    """Weights and trackers have replicas of their own; sums over peers are those of exact mixing."""
    world, w, rounds, gamma = World(5), ring(5), 5, 0.4
    out = world.run(
        GradientTracking(compression=TopK(1 / DIM), gamma=gamma), topology=Ring(), init="own", rounds=rounds
    )
    x = before = out.first
    s, replicas = world.gradient(x), {"x": torch.zeros_like(x), "s": torch.zeros_like(x)}
    for r in range(rounds):
        if r:
            s = s + world.gradient(x) - world.gradient(before)
        before, moved = x, {}
        for name, half in (("x", x - RATE * s), ("s", s)):
            hat = replicas[name] = replicas[name] + torch.stack([top(row) for row in half - replicas[name]])
            moved[name] = half + gamma * (w @ hat - hat)
        x, s = moved["x"], moved["s"]
    close(out.w, x)
    close(out.state["s"]["w"], s)
    close(s.mean(0), world.gradient(before).mean(0))


@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
def test_adaptive_hubs_on_quadratics(kind: Any) -> None:
    world, rounds = World(), 3
    out = world.run(kind(server_lr=0.3, betas=(0.8, 0.95), tau=0.1), rounds=rounds, steps=STEPS)
    x, m, v = world.start, 0.0, torch.full((DIM,), 0.01, dtype=torch.float64)
    for _ in range(rounds):
        d = mean(world.p, (1 - powers(world)) * (world.B - x))
        m = 0.8 * m + 0.2 * d
        v = {
            FedAdagrad: v + d**2,
            FedAdam: 0.95 * v + 0.05 * d**2,
            FedYogi: v - 0.05 * d**2 * (v - d**2).sign(),
        }[kind]
        x = x + 0.3 * m / (v.sqrt() + 0.1)
    close(out.w, x)


# --- rates through a hub ---------------------------------------------------------------------------


def test_fedavg_contracts_by_the_mean_power() -> None:
    """x+ - x* = sum p_i r_i (x - x*)."""
    world, rounds = World(), 12
    out = world.run(FedAvg(), steps=STEPS, rounds=rounds)
    r = powers(world)
    rest = mean(world.p, (1 - r) * world.B) / mean(world.p, 1 - r)
    close(out.w, rest + mean(world.p, r) ** rounds * (world.start - rest))
    assert (out.w[0] - rest).abs().min() > 1e-6


@pytest.mark.parametrize("weights", ["uniform", "samples"])
def test_fedlin_contracts_like_descent_whatever_the_peers_differ_in(weights: Any) -> None:
    """Each walks along -g alone, by (1 - r_i) / A_i; so x+ - x* = (1 - sum p_i (1 - r_i) / A_i A) (x - x*).

    Here A = sum p_i A_i and r_i = (1 - eta A_i / tau_i)^tau_i. With equal curvatures that is sum p_i r_i.
    """
    world, rounds = World(), 12
    p = UNIFORM if weights == "uniform" else world.p
    tau = torch.tensor(STEPS, dtype=torch.float64)[:, None]
    for equal in (False, True):
        if equal:
            world.A = world.A[:1].expand(4, DIM).clone()
        out = world.run(FedLin(weights=weights), steps=STEPS, rounds=rounds, rate=0.3)
        r, rest = (1 - 0.3 / tau * world.A) ** tau, world.optimum(p)
        factor = 1 - mean(p, (1 - r) / world.A) * mean(p, world.A)
        close(out.w, rest + factor**rounds * (world.start - rest))
        assert (out.w[0] - rest).abs().min() > 1e-6
    close(factor, mean(p, r))


@pytest.mark.parametrize("controls", ["mean", "full"])
def test_scaffold_with_equal_curvatures_contracts_like_descent(controls: Any) -> None:
    """Its offsets move the bottoms to b_i - (c - c_i) / A, whose mean is x* as c is the mean c_i."""
    world, rounds = World(), 12
    world.A = world.A[:1].expand(4, DIM).clone()
    out = world.run(Scaffold(controls), steps=3, rounds=rounds)
    rest = world.B.mean(0)
    close(out.w, rest + (1 - RATE * world.A[0]) ** (3 * rounds) * (world.start - rest))
    assert out.state["c_i"]["w"].abs().min() > 1e-2  # there was something to correct


def test_scaffold_contracts_by_its_round_matrix() -> None:
    """On x and all c_i together, with unequal curvatures and steps; option I, so c_i+ = A_i (x - b_i).

    y_i - x = -(1 - r_i) (x - b_i + (c - c_i) / A_i), and c is the mean c_i.
    """
    world, rounds = World(), 12
    out = world.run(Scaffold("full"), steps=STEPS, rounds=rounds)
    rest = world.optimum(UNIFORM)
    for j in range(DIM):
        a, gone = world.A[:, j], 1 - powers(world)[:, j]
        m = torch.zeros(5, 5, dtype=torch.float64)  # deviations of x, then of c_i
        m[0, 0] = 1 - gone.mean()
        m[0, 1:] = gone / a / 4 - (gone / a).mean() / 4
        m[1:, 0] = a
        start = torch.cat([(world.start - rest)[j, None], -a * (rest[j] - world.B[:, j])])
        end = torch.linalg.matrix_power(m, rounds) @ start
        close(out.w[0, j], rest[j] + end[0])
        close(out.state["c_i"]["w"][:, j], a * (rest - world.B)[:, j] + end[1:])
        assert end.abs().min() > 1e-6


def test_heavy_ball_of_the_hub_contracts_by_its_companion_matrix() -> None:
    """m+ = b m - (1 - rho) (x - x*), x+ = x + eta_g m+, where rho = sum p_i r_i."""
    world, rounds = World(), 12
    out = world.run(FedAvg(server_lr=0.8, server_momentum=0.6), steps=STEPS, rounds=rounds)
    r = powers(world)
    rest, gone = mean(world.p, (1 - r) * world.B) / mean(world.p, 1 - r), 1 - mean(world.p, r)
    for j in range(DIM):
        g = float(gone[j])
        m = torch.tensor([[1 - 0.8 * g, 0.8 * 0.6], [-g, 0.6]], dtype=torch.float64)
        start = torch.stack([(world.start - rest)[j], torch.tensor(0.0, dtype=torch.float64)])
        close(out.w[0, j], rest[j] + (torch.linalg.matrix_power(m, rounds) @ start)[0])


# --- rates on graphs -------------------------------------------------------------------------------


def path(size: int) -> Tensor:
    """Metropolis on a path: degrees are 1 and 2, so all edges weigh a third, and ends keep two thirds."""
    one = torch.ones(size - 1, dtype=torch.float64) / 3
    w = torch.diag(one, 1) + torch.diag(one, -1)
    return w + torch.diag(1 - w.sum(1))


def cube() -> Tensor:
    """On three dimensions everybody has three neighbours: a quarter each."""
    apart = torch.tensor([[(k ^ j).bit_count() for j in range(8)] for k in range(8)])
    return (apart <= 1).double() / 4


@pytest.mark.parametrize(
    ("topology", "w", "factor"),
    [
        (Path(), path(4), 1 - 2 / 3 * (1 - cos(pi / 4))),  # 1 - 2/3 (1 - cos(pi k / 4)), k = 0 ... 3
        (Hypercube(), cube(), 1 / 2),  # 1 - k / 2, k = 0 ... 3
    ],
    ids=["path", "hypercube"],
)
def test_gossip_shrinks_disagreement_by_the_second_eigenvalue(
    topology: Any, w: Tensor, factor: float
) -> None:
    """W^n x after n rounds, of which what is furthest from agreement shrinks by the factor."""
    world = World(len(w))
    out = world.run(Gossip(), topology=topology, init="own", rate=0.0, rounds=3)
    close(out.w, torch.linalg.matrix_power(w, 3) @ out.first)
    eigenvalues = torch.linalg.eigvalsh(w).abs().sort(descending=True).values
    close(eigenvalues[1], torch.tensor(factor, dtype=torch.float64))


def test_push_sum_on_a_cycle_is_mixing_whose_disagreement_shrinks_by_a_cosine() -> None:
    """A = (I + P) / 2 has eigenvalues (1 + exp(2 pi i k / 5)) / 2, of modulus cos(pi k / 5), and is normal."""
    out = World(5).run(PushSum(), topology=DirectedCycle(), init="own", rate=0.0, rounds=3)
    one = torch.eye(5, dtype=torch.float64)
    a = (one + one.roll(1, 0)) / 2
    close(out.w, torch.linalg.matrix_power(a, 3) @ out.first)
    close(torch.linalg.eigvals(a).abs().sort().values[-2], torch.tensor(cos(pi / 5), dtype=torch.float64))


def test_push_sum_on_an_uneven_graph_finds_the_mean_that_mixing_alone_would_miss() -> None:
    """x = (A^n x_0) / (A^n 1); mass ends up where A leaves it, far from one each."""
    world, a = World(5), pushes()
    run = partial(world.run, PushSum(), topology=NetworkX(uneven_digraph()), init="own", rate=0.0)
    early, late = run(rounds=4), run(rounds=60)
    power = torch.linalg.matrix_power(a, 4)
    close(early.w, power @ early.first / power.sum(1, keepdim=True))
    close(late.w, late.first.mean(0))
    # Flows balance: w_4 / 2 = 3 w_0 / 4, w_1 / 2 = w_0 / 4, w_2 / 2 = w_1 / 2 + w_0 / 4, and so on.
    balanced = torch.tensor([4.0, 2, 4, 6, 6], dtype=torch.float64)
    close(late.state["w"]["mass"].flatten(), 5 * balanced / balanced.sum())


def test_gradient_tracking_contracts_by_its_round_matrix() -> None:
    """On x and s together: x+ = W (x - eta s), s+ = W s + A (x+ - x); so it rests at the optimum.

    The sum of s stays that of the gradients, so the eigenvalue 1 of the matrix, whose left vector says
    so, has no part in it, and the next one is the rate.
    """
    world, w, one = World(5), ring(5), torch.eye(5, dtype=torch.float64)
    early = world.run(GradientTracking(), topology=Ring(), init="own", rounds=7)
    rest = world.optimum(torch.full((5,), 0.2, dtype=torch.float64))
    for j in range(DIM):
        a = torch.diag(world.A[:, j])
        m = torch.cat([torch.cat([w, -RATE * w], 1), torch.cat([a @ (w - one), w - RATE * a @ w], 1)])
        start = torch.cat([early.first[:, j] - rest[j], world.gradient(early.first)[:, j]])
        close(early.w[:, j], rest[j] + (torch.linalg.matrix_power(m, 7) @ start)[:5])
        moduli = torch.linalg.eigvals(m).abs().sort(descending=True).values
        close(moduli[0], torch.tensor(1.0, dtype=torch.float64))
        assert moduli[1] < 0.96
