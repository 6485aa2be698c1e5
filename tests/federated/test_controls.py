"""What a user can set changes the weights, and nothing changes where nothing moves."""

from __future__ import annotations

from typing import Any

import pytest

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
from mmkd.topology import DirectedCycle, Ring, Star
from tests.federated.quadratics import DIM, World, close
from tests.federated.test_closed_forms import STEPS
from tests.tiny import sgd

TOP = TopK(1 / DIM)
GIVEN = {"q/0": 1.0, "q/1": 2.0, "q/2": 3.0, "q/3": 9.0}
CONTROLS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "server_lr": (FedAvg, {}, {"server_lr": 0.5}),
    "server_momentum": (FedAvg, {"server_momentum": 0.3}, {"server_momentum": 0.6}),
    "weights": (FedAvg, {"weights": "uniform"}, {"weights": "samples"}),
    "given weights": (FedAvg, {"weights": "uniform"}, {"weights": GIVEN}),
    "fraction": (FedAvg, {"compression": TOP}, {"compression": TopK(2 / DIM)}),
    "error_feedback": (FedAvg, {"compression": TOP}, {"compression": TopK(1 / DIM, error_feedback=False)}),
    "bits": (FedAvg, {"compression": Quantise(4)}, {"compression": Quantise(8)}),
    "seed of rounding": (FedAvg, {"compression": Quantise(4)}, {"compression": Quantise(4, seed=1)}),
    "answers": (FedAvg, {}, {"answers": TOP}),
    "optimizer_state": (FedAvg, {"optimizer_state": "keep"}, {"optimizer_state": "reset"}),
    "mu": (FedProx, {"mu": 0.1}, {"mu": 0.2}),
    "controls": (Scaffold, {"controls": "full"}, {"controls": "mean"}),
    "scaffold weights": (Scaffold, {}, {"weights": "samples"}),
    "mime base": (Mime, {"base": "sgd"}, {"base": "momentum"}),
    "mime betas": (Mime, {"betas": (0.9, 0.99)}, {"betas": (0.8, 0.99)}),
    "mime second beta": (Mime, {"base": "adam"}, {"base": "adam", "betas": (0.9, 0.9)}),
    "mime eps": (Mime, {"base": "adam"}, {"base": "adam", "eps": 0.1}),
    "v0": (Mime, {"base": "adam"}, {"base": "adam", "v0": 0.5}),
    "lite": (Mime, {}, {"lite": True}),
    "nova mu": (FedNova, {}, {"mu": 0.5}),
    "gradients": (FedLin, {}, {"gradients": TOP}),
    "gradient_answers": (FedLin, {}, {"gradient_answers": TOP}),
    "a": (FedShuffle, {"momentum": 0.2}, {"momentum": 0.4}),
    "tau": (FedAdam, {"tau": 0.1}, {"tau": 0.2}),
    "b1": (FedAdam, {"betas": (0.9, 0.99)}, {"betas": (0.5, 0.99)}),
    "b2": (FedYogi, {"betas": (0.9, 0.99)}, {"betas": (0.9, 0.5)}),
    "adagrad": (FedAdagrad, {"server_lr": 0.1}, {"server_lr": 0.2}),
    "order": (Gossip, {}, {"order": "combine_first"}),
    "gamma": (Gossip, {"compression": TOP}, {"compression": TOP, "gamma": 0.2}),
    "tracking gamma": (GradientTracking, {"compression": TOP}, {"compression": TOP, "gamma": 0.2}),
    "push gamma": (PushSum, {"compression": TOP}, {"compression": TOP, "gamma": 0.2}),
}


def run(make: Any, settings: dict[str, Any], **kwargs: Any) -> Any:
    steps: Any = 1 if make is GradientTracking else STEPS
    topology = {Gossip: Ring(), GradientTracking: Ring(), PushSum: DirectedCycle()}.get(make, Star())
    return World().run(make(**settings), steps=steps, rounds=3, topology=topology, **kwargs)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_changed_control_changes_the_weights(name: str) -> None:
    """A setting that does nothing passes every smoke test."""
    make, one, other = CONTROLS[name]
    momentum = {"optimizer": sgd(0.1, momentum=0.9)} if name == "optimizer_state" else {}
    a, b = (run(make, settings, **momentum).w for settings in (one, other))
    assert (a - b).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("make", "participation"),
    [
        (make, participation)
        for make in (Gossip, lambda: Gossip("combine_first"), PushSum)
        for participation in (None, Sampled(count=2))
    ]
    + [(GradientTracking, None)],  # which needs every peer
)
def test_neighbours_that_agree_and_do_not_move_stay(make: Any, participation: Any) -> None:
    """Up to the rounding of weights that sum to 1."""
    steps: Any = 1 if make is GradientTracking else STEPS
    topology = DirectedCycle() if make is PushSum else Ring()
    out = World().run(make(), rate=0.0, steps=steps, rounds=3, topology=topology, participation=participation)
    close(out.w, out.first, 1e-14)


PATHS: dict[str, Any] = {
    "fedavgm": lambda: FedAvg(server_momentum=0.5),
    "int8": lambda: FedAvg(compression=Quantise(8), answers=Quantise(8)),
    "fedprox": lambda: FedProx(mu=0.5),
    "scaffold": lambda: Scaffold("mean"),
    "scaffold-full": lambda: Scaffold("full"),
    "fednova": FedNova,
    "fedadam": lambda: FedAdam(tau=0.1),
    "mime": Mime,
    "fedshuffle-mvr": lambda: FedShuffle(momentum=0.3),
    "gossip": Gossip,
    "push-sum": PushSum,
}


@pytest.mark.parametrize("name", PATHS)
def test_vectorised_is_one_after_the_other_in_sampled_rounds(name: str) -> None:
    one = PATHS[name]()
    topology = {Gossip: Ring(), PushSum: DirectedCycle()}.get(type(one), Star())
    a, b = (
        World().run(
            one,
            steps=STEPS,
            rounds=5,
            topology=topology,
            vectorize=v,
            participation=Sampled(count=2),
        )
        for v in ("always", "never")
    )
    close(a.w, b.w)
    assert a.callback.ledger == b.callback.ledger


@pytest.mark.parametrize("make", [lambda: Gossip(compression=TOP), GradientTracking])
def test_vectorised_neighbours_are_one_after_the_other(make: Any) -> None:
    steps: Any = 1 if isinstance(make(), GradientTracking) else STEPS
    a, b = (
        World().run(make(), steps=steps, rounds=5, topology=Ring(), vectorize=v, init="own")
        for v in ("always", "never")
    )
    close(a.w, b.w)
