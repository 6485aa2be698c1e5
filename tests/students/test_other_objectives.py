"""Peers with objectives of their own still teach and learn: a second task, and fewer labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.functional.classification import cross_entropy
from mmkd.knowledge import MultiHeadDistillation, SharedLogits
from mmkd.topology import Complete
from mmkd.types import Batch
from tests.tiny import CLASSES, Ear, Eye, TinyData, schedule, trainer

BOTH = pytest.mark.parametrize("vectorize", ["never", "always"])


def quick(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


class Gauge(Eye):
    """Tells classes apart and measures how far from the origin a sample lies."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, drop=0.0, **kwargs)
        self.measure = nn.Linear(16, 1)

    def distance(self, x: Tensor) -> Tensor:
        return self.measure(self.embed(x))[:, 0]

    def private_loss(self, batch: Batch) -> Tensor:
        error = (self.distance(batch.x) - batch.x.norm(dim=1)).square().mean()
        return super().private_loss(batch) + error


class Partial(Eye):
    """Knows two of the classes from its own samples; of the third it can only be told."""

    def private_loss(self, batch: Batch) -> Tensor:
        return cross_entropy(self(batch.x)[:, :2], batch.y)


class Poor(TinyData):
    """The peers called ``few`` own no sample of the last class."""

    def private(self, peer: str, split: str) -> Any:
        samples: Any = super().private(peer, split)
        if peer.startswith("few") and split == "train":
            return samples.subset((samples.y < CLASSES - 1).nonzero()[:, 0])
        return samples


def run(peers: dict[str, Fleet], knowledge: Any, vectorize: str) -> Cohort:
    cohort = Cohort(peers, CLASSES, vectorize=vectorize)  # type: ignore[arg-type]
    callback = DecentralizedCallback(knowledge, None, Complete(), schedule(knowledge_every=1))
    trainer(callback, max_epochs=6).fit(cohort, datamodule=Poor(batch_size=16))
    return cohort


@BOTH
@pytest.mark.parametrize("knowledge", [SharedLogits, MultiHeadDistillation])
def test_a_second_task_beside_teaching_and_learning(vectorize: str, knowledge: Any) -> None:
    """Its measure gets good, and both it and its listeners end elsewhere than without each other."""
    peers = {
        "gauges": Fleet(lambda n: Gauge(n, heads=1, optimizer=quick), 2),
        "ears": Fleet(lambda n: Ear(n, heads=1), 2),
    }
    together = run(peers, knowledge(), vectorize)
    alone = run(peers, None, vectorize)
    held_out = Poor(batch_size=16, peers={"ears/0": "audio"})
    held_out.setup("fit")
    x = held_out.held_out.x
    for name in ("gauges/0", "gauges/1"):
        student: Any = together.student(name).eval()
        with torch.no_grad():
            error = (student.distance(x) - x.norm(dim=1)).square().mean()
        assert error < x.square().sum(1).mean() / 10  # a tenth of what an untrained measure, near 0, is off
    for name in together.names:
        one, two = together.student(name).state_dict(), alone.student(name).state_dict()
        assert any(not torch.equal(one[n], two[n]) for n in one)


@BOTH
def test_what_a_peer_has_no_label_for_it_learns_from_others(vectorize: str) -> None:
    peers = {"few": Fleet(lambda n: Partial(n, drop=0.0), 2), "ears": Fleet(lambda n: Ear(n, drop=0.0), 2)}
    together = run(peers, SharedLogits(), vectorize)
    alone = run(peers, None, vectorize)
    for name in ("few/0", "few/1"):
        one, two = (cohort.metrics[name]["shared_accuracy"] for cohort in (together, alone))
        # Two classes of three are all that its labels can teach.
        assert one > 2 / 3 + 0.1
        assert one > two
