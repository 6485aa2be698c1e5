"""Accuracy of every peer, under its own label distribution and under the uniform one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.types import PeerName


class Confusion:
    """Counts of (label, prediction) for every peer and reading.

    Readings are the bare main head, the main head with the peer's label prior put back, and the
    auxiliary heads. ``shared_accuracy`` is the mean over classes of the recall of a bare head: the
    accuracy that a uniform label distribution would give (beta_shared). ``private_accuracy`` weighs
    the recalls of the second reading by the peer's own training labels (beta_private).
    """

    def __init__(self, num_classes: int) -> None:
        self._classes = num_classes
        self._counts: dict[PeerName, Tensor] = {}

    def update(
        self,
        peers: Sequence[PeerName],
        predicted: Int[Tensor, "peers readings batch"],
        y: Int[Tensor, " batch"],
    ) -> None:
        """Count one batch that all ``peers`` have read."""
        rows, readings, _ = predicted.shape
        cells = y * self._classes + predicted
        offsets = torch.arange(rows * readings, device=y.device).view(rows, readings, 1)
        square = self._classes**2
        counts = torch.bincount((cells + offsets * square).flatten(), minlength=rows * readings * square)
        for peer, row in zip(peers, counts.view(rows, readings, self._classes, -1).cpu(), strict=True):
            self._counts[peer] = self._counts[peer] + row if peer in self._counts else row

    def compute(
        self, frequencies: dict[PeerName, Float[Tensor, " classes"]]
    ) -> dict[PeerName, dict[str, float]]:
        """Metrics of every peer; forgets the counts.

        Args:
            frequencies: label distribution of each peer's private samples.
        """
        metrics = {}
        for peer, counts in self._counts.items():
            total = counts.sum(-1)
            present = total[0] > 0
            recall = counts.diagonal(dim1=-2, dim2=-1) / total.clamp(min=1)
            own = frequencies[peer] * present
            metrics[peer] = {
                "shared_accuracy": float(recall[0][present].mean()),
                "private_accuracy": float((recall[1] * own).sum() / own.sum().clamp(min=1e-12)),
            }
            for head in range(2, len(counts)):
                metrics[peer][f"head{head - 1}_shared_accuracy"] = float(recall[head][present].mean())
        self._counts = {}
        return metrics
