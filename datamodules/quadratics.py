"""Peers whose losses are quadratics or planes, so that every federated method has a formula to meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.students import Student
from mmkd.types import Batch, Classes, Predictions


class Point(Student):
    """A point w in space. A sample is (a, b, k), its loss sum(a (w - b)^2 / 2 + k w).

    Args:
        start: where it begins, ``[dim]``.
        **kwargs: of ``Student``.
    """

    modalities = ("quadratic",)

    def __init__(self, start: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.w = nn.Parameter(start.clone())

    def predict(self, x: Tensor) -> Predictions:
        """Where it is, as two logits and an embedding."""
        at = self.w.expand(len(x), -1)
        return Classes(at[:, :2], at.new_empty(0, len(x), 2), at)

    def private_loss(self, batch: Batch) -> Tensor:
        """Mean of the samples' losses."""
        a, b, k = batch.x.unbind(1)
        return (a * (self.w - b) ** 2 / 2 + k * self.w).sum(1).mean()


class Quadratics(PeerDataModule):
    """The i-th peer owns ``samples[i]``, ``[n_i, 3, dim]``: curvature, centre and slope of each.

    Args:
        samples: one tensor a peer.
        **kwargs: of ``PeerDataModule``.
    """

    num_classes = 2
    modalities = ("quadratic",)

    def __init__(self, samples: Sequence[Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.samples = list(samples)

    def private(self, peer: str, split: str) -> Dataset[Any]:
        """The peer's quadratics."""
        x = self.samples[int(peer.rsplit("/", 1)[1])]
        return Samples(x, torch.zeros(len(x)))

    def public(self, split: str) -> Dataset[Any]:
        """The first peer's, which do no harm."""
        return PublicSamples({"quadratic": self.samples[0]})
