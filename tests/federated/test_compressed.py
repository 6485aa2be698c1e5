"""Compression both ways: nothing is lost for good, bytes are exact, and what is lossless changes nothing."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.encoding import Quantise, TopK
from mmkd.federated import FedAvg, FedLin, FedNova, Gossip, GradientTracking, PushSum, Scaffold
from mmkd.functional.compression import from_top_k, top_k
from mmkd.topology import Complete, DirectedCycle, Ring
from mmkd.types import ConfigError
from tests.federated.quadratics import DIM, Outcome, World, close
from tests.federated.test_closed_forms import HUB, RATE, STEPS, UNIFORM, mean

ONE = TopK(1 / DIM)
ALL = TopK(1.0)
NEIGHBOURS: dict[str, Any] = {
    "gossip": (Gossip, Ring(), STEPS),
    "combine": (lambda **k: Gossip("combine_first", **k), Ring(), STEPS),
    "tracking": (GradientTracking, Ring(), 1),
    "push-sum": (PushSum, DirectedCycle(), STEPS),
}


@functools.cache
def plain_run(name: str) -> Outcome:
    return World().run(HUB[name](), steps=STEPS, rounds=3)


@pytest.mark.parametrize("way", ["compression", "answers"])
@pytest.mark.parametrize("name", [n for n in HUB if n != "compressed"])
def test_what_loses_nothing_changes_nothing(name: str, way: str) -> None:
    """The largest of all entries are all entries; values and places are paid for."""
    plain = plain_run(name)
    whole = World().run(HUB[name](**{way: ALL}), steps=STEPS, rounds=3)
    close(plain.w, whole.w)
    direction = {"compression": "up", "answers": "down"}[way]
    paid, free = (out.callback.ledger.by_kind()["weights"][direction] for out in (whole, plain))
    number = 3 * 4 * 8 if name == "fednova" and direction == "up" else 0  # which is never compressed
    assert paid - number == (free - number) * 12 // 8


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_replicas_without_loss_change_nothing(name: str) -> None:
    make, topology, steps = NEIGHBOURS[name]
    plain, whole = (
        World().run(make(**k), topology=topology, steps=steps, rounds=4, init="own")
        for k in ({}, {"compression": ALL, "gamma": 1.0})
    )
    close(plain.w, whole.w)


def sparse(x: Tensor) -> Tensor:
    """The largest entry of each row."""
    return from_top_k(*top_k(x, 1), DIM)


def test_a_hub_says_later_what_it_left_out() -> None:
    """On planes displacements do not depend on where peers stand, so the hub's x is exact."""
    world, rounds = World(linear=True), 6
    out = world.run(FedAvg(answers=ONE, server_lr=0.7), rounds=rounds, steps=2)
    x = told = world.start[None]
    for _ in range(rounds):
        x = x - 0.7 * 2 * RATE * mean(world.p, world.K)
        told = told + sparse(x - told)
    close(out.w, told[0])
    close(out.state["hub"]["w"], x)
    assert (x - told).abs().max() > 0.01


@pytest.mark.parametrize(
    ("scaffold", "rounds"),
    [
        (Scaffold("mean", compression=ONE), 80),
        (Scaffold("full", compression=Quantise(4)), 40),
        pytest.param(Scaffold("mean", compression=ONE, answers=ONE), 150, marks=pytest.mark.long),
    ],
    ids=["mean-top", "full-4 bits", "both ways"],
)
def test_scaffold_with_compressed_changes_of_controls_reaches_the_optimum(
    scaffold: Scaffold, rounds: int
) -> None:
    """Said twice, as error feedback on top of c_i would, what was left out grows without bound."""
    out = World().run(scaffold, steps=STEPS, rounds=rounds, rate=0.3)
    close(out.w, World().optimum(UNIFORM))
    close(out.state["c"]["w"][0], out.state["c_i"]["w"].mean(0))


def test_fednova_sends_normalised_displacements() -> None:
    """On planes d_k is the slope, so one entry a round and what is unsaid add up to rounds times it."""
    world, rounds = World(linear=True), 5
    out = world.run(FedNova(compression=ONE), steps=STEPS, rounds=rounds)
    reach = RATE * (world.p * torch.tensor(STEPS, dtype=torch.float64)).sum()
    unsaid = mean(world.p, out.state["weights unsaid"]["w"])
    close(out.w[0] + reach * unsaid, world.start - rounds * reach * mean(world.p, world.K))
    assert unsaid.abs().max() > 0


@pytest.mark.long  # its rounds by hand are in test_rates_and_iterates
def test_compressed_gradient_tracking_rests_at_the_optimum() -> None:
    world = World(5)
    out = world.run(GradientTracking(compression=ONE, gamma=0.4), topology=Ring(), init="own", rounds=350)
    close(out.w, world.optimum(torch.full((5,), 0.2, dtype=torch.float64)))


@pytest.mark.long  # its rounds by hand are in test_rates_and_iterates
def test_compressed_push_sum_finds_the_mean() -> None:
    """A step of gamma for weights and masses alike: with another one the limit would be another."""
    world = World(5)
    out = world.run(
        PushSum(compression=ONE, gamma=0.3), topology=DirectedCycle(), init="own", rate=0.0, rounds=400
    )
    close(out.w, out.first.mean(0))


def test_error_feedback_can_be_left_out() -> None:
    """Then what is left out is gone: on planes the hub moves along the largest entries alone."""
    world, rounds = World(linear=True), 4
    out = world.run(FedAvg(compression=TopK(1 / DIM, error_feedback=False)), rounds=rounds)
    close(out.w, world.start - rounds * RATE * mean(world.p, sparse(world.K)))
    lin = World().run(FedLin(gradient_answers=TopK(1 / DIM, error_feedback=False)), steps=STEPS, rounds=3)
    assert "e" not in lin.state


def test_answers_need_a_hub() -> None:
    with pytest.raises(ConfigError, match="what a hub says"):
        World().run(FedAvg(answers=ONE), topology=Complete())
