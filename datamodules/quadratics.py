"""Peers with quadratic or linear losses, for which federated methods have closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.students import Student
from mmkd.types import Batch, Classes, Predictions


class Point(Student):
    """A point w as a student: a sample is (a, b, k), and its loss is sum(a (w - b)^2 / 2 + k w).

    Args:
        start: the point at which training begins.
        **kwargs: arguments of ``Student``.
    """

    modalities = ("quadratic",)

    def __init__(self, start: Float[Tensor, " dim"], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.w = nn.Parameter(start.clone())

    def predict(self, x: Float[Tensor, "batch 3 dim"]) -> Predictions:
        """The point, as embedding of every sample, and its first two coordinates as logits."""
        at = self.w.expand(len(x), -1)
        return Classes(at[:, :2], at.new_empty(0, len(x), 2), at)

    def private_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean of the samples' losses."""
        x: Tensor = batch.x
        a, b, k = x.unbind(1)
        return (a * (self.w - b) ** 2 / 2 + k * self.w).sum(1).mean()


class Quadratics(PeerDataModule):
    """Samples (a, b, k) of quadratic losses: curvature, centre and slope in each dimension.

    Args:
        samples: the samples of each peer, in the order of the numbers in the peers' names.
        **kwargs: arguments of ``PeerDataModule``.
    """

    num_classes = 2
    modalities = ("quadratic",)

    def __init__(self, samples: Sequence[Float[Tensor, "_ 3 dim"]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.samples = list(samples)

    def private(self, peer: str, split: str) -> Dataset[Any]:
        """The samples of the peer, whatever the split."""
        x = self.samples[int(peer.rsplit("/", 1)[1])]
        return Samples(x, torch.zeros(len(x)))

    def public(self, split: str) -> Dataset[Any]:
        """The samples of the first peer, which stand in where no method reads public samples."""
        return PublicSamples({"quadratic": self.samples[0]})
