"""Peers with objectives of their own still teach and learn: a second task, and fewer labels."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import Samples
from mmkd.functional.classification import cross_entropy
from mmkd.knowledge import Knowledge, MultiHeadDistillation, SharedLogits
from mmkd.topology import Complete
from mmkd.types import Batch
from tests.tiny import CLASSES, Ear, Eye, TinyData, schedule, trainer


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


def held_out() -> Samples:
    data = Poor(batch_size=16, peers={"ears/0": "audio"})
    data.setup("fit")
    return data.held_out


@cache
def fitted(knowledge: type[Knowledge] | None, vectorize: str) -> Cohort:
    """Peers with a second task, peers without, and peers with labels of two classes; they teach one another."""
    peers = {
        "gauges": Fleet(lambda n: Gauge(n, heads=1, optimizer=quick), 2),
        "ears": Fleet(lambda n: Ear(n, heads=1, drop=0.0, optimizer=quick), 2),
        "few": Fleet(lambda n: Partial(n, heads=1, drop=0.0, optimizer=quick), 2),
    }
    cohort = Cohort(peers, CLASSES, vectorize=vectorize)  # type: ignore[arg-type]
    said = None if knowledge is None else knowledge()
    when = schedule() if said is None else schedule(knowledge_every=1)
    callback = DecentralizedCallback(said, None, Complete(), when)
    trainer(callback, max_epochs=3).fit(cohort, datamodule=Poor(batch_size=16))
    return cohort


@pytest.mark.parametrize(
    ("knowledge", "vectorize"),
    [
        pytest.param(SharedLogits, "never", marks=pytest.mark.long),
        (SharedLogits, "always"),
        (MultiHeadDistillation, "always"),
    ],
)
def test_a_second_task_beside_teaching_and_learning(knowledge: type[Knowledge], vectorize: str) -> None:
    """Its measure gets good, and both it and its listeners end elsewhere than without each other."""
    together, alone = fitted(knowledge, vectorize), fitted(None, vectorize)
    x = held_out().x
    for name in ("gauges/0", "gauges/1"):
        student: Any = together.student(name).eval()
        with torch.no_grad():
            error = (student.distance(x) - x.norm(dim=1)).square().mean()
        assert error < x.square().sum(1).mean() / 10  # a tenth of what an untrained measure, near 0, is off
    for name in together.names:
        one, two = together.student(name).state_dict(), alone.student(name).state_dict()
        assert any(not torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_what_a_peer_has_no_label_for_it_learns_from_others(vectorize: str) -> None:
    together, alone = fitted(SharedLogits, vectorize), fitted(None, vectorize)
    known = (held_out().y < CLASSES - 1).double().mean()
    for name in ("few/0", "few/1"):
        one, two = (cohort.metrics[name]["shared_accuracy"] for cohort in (together, alone))
        # Samples of these classes are all that its labels can teach; without others the rest is luck.
        assert one > known + 0.1
        assert one > two
