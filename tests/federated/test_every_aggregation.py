"""Every aggregation resumes where it stood, and works beside knowledge on students with every difficulty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.encoding import TopK
from mmkd.federated import FedDF, Gossip, GradientTracking, HeteroFL, PushSum, Scaffold
from mmkd.knowledge import SharedLogits
from mmkd.participation import Sampled
from mmkd.topology import DirectedCycle, Ring, Star
from tests.federated.quadratics import World
from tests.federated.test_closed_forms import HUB, STEPS
from tests.tiny import CLASSES, Save, TinyData, fit, fleets, schedule, sgd

WORK: dict[str, Any] = {"local_steps": {"cameras": 4, "cameras/1": 2, "microphones": 3}}
EPOCH: dict[str, Any] = {"local_epochs": 1, "local_steps": None}  # three to twelve steps of each peer
EVERY: dict[str, tuple[Any, Any, Any]] = {
    **{name: (make, Star(), EPOCH if "shuffle" in name else WORK) for name, make in HUB.items()},
    "heterofl": (HeteroFL, Star(), WORK),
    "gossip": (Gossip, Ring(), WORK),
    "gossip-combine": (lambda **k: Gossip("combine_first", **k), Ring(), WORK),
    "choco": (lambda **k: Gossip(compression=TopK(0.3, error_feedback=False), **k), Ring(), WORK),
    "tracking": (GradientTracking, Ring(), {"local_steps": 1}),
    "push-sum": (PushSum, DirectedCycle(), WORK),
}
SITS_OUT = [name for name in EVERY if name not in ("fedlin", "choco", "tracking")]
# Aggregations do not know how peers train, so each meets one of the two ways.
EACH = pytest.mark.parametrize(
    ("name", "vectorize"), [(name, ("always", "never")[i % 2]) for i, name in enumerate(EVERY)]
)


@EACH
def test_what_is_remembered_is_in_the_checkpoint(name: str, vectorize: str, tmp_path: Path) -> None:
    """Saved after four of the five ticks of the second round (of its second batch, where epochs are counted)."""
    make, topology, _ = EVERY[name]
    work: dict[str, Any] = {"local_steps": {f"q/{i}": n for i, n in enumerate(STEPS)}}
    blocks = 5
    if "shuffle" in name:
        work, blocks = {"local_epochs": 1}, 3
    if name == "tracking":
        work, blocks = {"local_steps": 1}, 1

    def run(**kwargs: Any) -> Any:
        return World().run(
            make(optimizer_state="keep") if name != "fednova" else make(),
            rounds=3, batch_size=2, topology=topology, vectorize=vectorize, schedule={"block": 2, **work},
            participation=Sampled(count=2) if name in SITS_OUT else None, optimizer=momentum(name), **kwargs,
        )  # fmt: skip

    whole = run(extra=[Save(tmp_path / "half.ckpt", blocks)])
    again = run(ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(whole.w, again.w)
    assert (whole.w - whole.first).abs().max() > 0
    assert whole.callback.ledger == again.callback.ledger


def momentum(name: str) -> Any:
    """Where a method may have it, local momentum has to be remembered, too."""
    plain = name.startswith(("mime", "fedlin", "fednova", "fedshuffle", "tracking"))
    return sgd(0.1) if plain else sgd(0.1, momentum=0.5)


def run(
    aggregation: Any, topology: Any, work: dict[str, Any], vectorize: Any, **kwargs: Any
) -> tuple[Cohort, DecentralizedCallback]:
    cohort = Cohort(fleets(optimizer=sgd(0.05)), CLASSES, vectorize=vectorize)
    timing = schedule(**work, knowledge_every=3)
    participation = kwargs.pop("participation", None)
    callback = DecentralizedCallback(
        SharedLogits(), aggregation, topology, timing, participation=participation
    )
    fit(cohort, callback, TinyData(batch_size=16), **{"max_epochs": 1, **kwargs})
    return cohort, callback


@pytest.mark.parametrize(
    ("make", "vectorize", "blocks"),
    [
        (lambda: Scaffold("full", optimizer_state="keep"), "always", 3),  # in the middle of the second round
        (lambda: FedDF(steps=3), "never", 1),  # in the middle of the first
        (lambda: HeteroFL(optimizer_state="keep"), "always", 3),
    ],
    ids=["scaffold", "feddf", "heterofl"],
)
def test_a_run_beside_knowledge_resumes_with_statistics_and_random_layers(
    make: Any, vectorize: str, blocks: int, tmp_path: Path
) -> None:
    how = (Star(), WORK, vectorize)
    some = Sampled(count=2)
    whole, callback = run(make(), *how, participation=some, extra=[Save(tmp_path / "half.ckpt", blocks)])
    again, other = run(make(), *how, participation=some, ckpt_path=tmp_path / "half.ckpt")
    one, two = whole.state_dict(), again.state_dict()
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert callback.ledger == other.ledger
    assert whole.metrics == again.metrics


@EACH
def test_knowledge_beside_it_and_statistics_averaged(name: str, vectorize: str) -> None:
    make, topology, work = EVERY[name]
    cohort, callback = run(make(), topology, work, vectorize, limit_val_batches=0)
    weights = cohort.axis.weights(["cameras/0", "cameras/1", "cameras/2"], buffers=True)
    assert all(bool(leaf.isfinite().all()) for leaf in weights.values())
    assert "net.1.running_mean" in weights
    if name in HUB:
        assert all(
            torch.equal(leaf[0], leaf[1]) and torch.equal(leaf[0], leaf[2]) for leaf in weights.values()
        )
    start = Cohort(fleets(), CLASSES, vectorize="always").axis.weights(["cameras/0"], buffers=True)
    moved = {n: float((weights[n][0] - start[n][0]).abs().max()) for n in weights}
    del moved["net.0.bias"]  # normalisation takes it away again, so nothing moves it
    assert min(moved.values()) > 1e-4
    assert callback.ledger.total("logits") > 0
