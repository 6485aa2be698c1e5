"""Every aggregation on students with normalisation, dropout and counters: resume, two paths, knowledge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.encoding import TopK
from mmkd.federated import Gossip, GradientTracking, HeteroFL, PushSum
from mmkd.knowledge import SharedLogits
from mmkd.participation import Sampled
from mmkd.topology import DirectedCycle, Ring, Star
from mmkd.types import Batches
from tests.federated.test_closed_forms import HUB
from tests.tiny import CLASSES, FEATURES, Kill, TinyData, fleets, schedule, sgd, trainer

WORK: dict[str, Any] = {"local_steps": {"cameras": 7, "cameras/1": 4, "microphones": 5}}
EPOCH: dict[str, Any] = {"local_epochs": 1, "local_steps": None}  # three to twelve steps of each peer
EVERY: dict[str, tuple[Any, Any, Any]] = {
    **{name: (make, Star(), EPOCH if "shuffle" in name else WORK) for name, make in HUB.items()},
    "heterofl": (HeteroFL, Star(), WORK),
    "gossip": (Gossip, Ring(), WORK),
    "gossip-combine": (lambda: Gossip("combine_first"), Ring(), WORK),
    "choco": (lambda: Gossip(compression=TopK(0.3, error_feedback=False)), Ring(), WORK),
    "tracking": (GradientTracking, Ring(), {"local_steps": 1}),
    "push-sum": (PushSum, DirectedCycle(), WORK),
}
SITS_OUT = [name for name in EVERY if name not in ("fedlin", "choco", "tracking")]


def run(
    name: str,
    *extra: Callback,
    vectorize: Any = "always",
    knowledge: Any = None,
    participation: Any = None,
    **kwargs: Any,
) -> tuple[Cohort, DecentralizedCallback]:
    make, topology, work = EVERY[name]
    cohort = Cohort(fleets(optimizer=sgd(0.05)), CLASSES, vectorize=vectorize)
    timing = schedule(**work, knowledge_every=3)
    callback = DecentralizedCallback(knowledge, make(), topology, timing, participation=participation)
    ckpt_path = kwargs.pop("ckpt_path", None)
    one = trainer(callback, *extra, **{"max_epochs": 2, **kwargs})
    data = TinyData(batch_size=16)
    if any(isinstance(c, Kill) for c in extra):
        with pytest.raises(SystemExit):  # Lightning turns an interrupt into an orderly exit
            one.fit(cohort, datamodule=data)
    else:
        one.fit(cohort, datamodule=data, ckpt_path=ckpt_path)
    return cohort, callback


@pytest.mark.parametrize("vectorize", ["always", "never"])
@pytest.mark.parametrize("name", EVERY)
def test_killed_in_the_middle_of_a_round_and_resumed_is_the_same(
    name: str, vectorize: str, tmp_path: Path
) -> None:
    participation = Sampled(count=2) if name in SITS_OUT else None
    # The first block of the second round: three ticks of seven, or of twelve.
    blocks = 2 if name == "tracking" else 5 if "shuffle" in name else 4
    whole, callback = run(name, participation=participation, vectorize=vectorize)
    save = ModelCheckpoint(
        tmp_path, "last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False
    )
    extra = {"participation": participation, "vectorize": vectorize}
    run(name, save, Kill(blocks), **extra, enable_checkpointing=True)
    again, other = run(name, **extra, ckpt_path=tmp_path / "last.ckpt")
    for peer in whole.names:
        one, two = whole.student(peer).state_dict(), again.student(peer).state_dict()
        assert all(torch.equal(one[n], two[n]) for n in one), peer
    assert callback.ledger == other.ledger


@pytest.mark.parametrize("vectorize", ["always", "never"])
@pytest.mark.parametrize("name", EVERY)
def test_knowledge_beside_it_and_statistics_averaged(name: str, vectorize: str) -> None:
    cohort, callback = run(name, knowledge=SharedLogits(), vectorize=vectorize)
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


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_a_gradient_elsewhere_is_the_gradient_of_a_student_that_stands_there(vectorize: Any) -> None:
    """Same batch, same dropout, statistics left alone: MIME's g(x; z) would else be another function."""
    cohort = Cohort(fleets(drop=0.5), CLASSES, vectorize=vectorize)
    names = ["cameras/0", "cameras/1", "cameras/2"]
    ids = torch.arange(18).view(3, 6)
    batches = [Batches(names, torch.randn(3, 6, FEATURES), torch.randint(CLASSES, (3, 6)), ids, [0, 1, 2])]
    here = cohort.axis.weights(names[:1], buffers=False)
    before = cohort.axis.weights(names, buffers=True)
    elsewhere = cohort.axis.gradients_at(names, batches, here)
    again = cohort.axis.gradients_at(names, batches, here)
    assert all(torch.equal(before[n], t) for n, t in cohort.axis.weights(names, buffers=True).items())
    group, _ = cohort.axis.locate(names[0])
    group.differentiate(batches[0], None, torch.Tensor.backward)
    live = cohort.axis.gradients(names)
    assert live.keys() == elsewhere.keys()
    for n, gradient in live.items():
        torch.testing.assert_close(elsewhere[n], gradient, rtol=1e-5, atol=1e-7)
        assert torch.equal(elsewhere[n], again[n])
    # Wherever the peers stand themselves.
    cohort.axis.load_weights(names, {n: torch.randn(3, *t.shape[1:]) for n, t in here.items()})
    far = cohort.axis.gradients_at(names, batches, here)
    assert all(torch.equal(far[n], g) for n, g in elsewhere.items())
