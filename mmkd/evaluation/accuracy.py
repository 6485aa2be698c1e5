"""Accuracy of every peer and head, under the peer's own label distribution and under the uniform one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.types import NO_LABEL, PeerName

Head = Literal["main", "last", "best", "ensemble"]
"""The head whose accuracy is a student's; ``best`` is chosen on validation samples, by shared accuracy."""


def readings(
    heads: Float[Tensor, "heads peers batch classes"], priors: Float[Tensor, "peers classes"]
) -> Int[Tensor, "peers answers 2 batch"]:
    """Most likely class of each head; of several heads, the mean of their probabilities is one more head.

    Each head is read twice: as it is (bare), and with the peer's label prior added to its logits.
    """
    if len(heads) > 1:
        heads = torch.cat([heads, heads.softmax(-1).mean(0, keepdim=True).log()])
    both = torch.stack([heads, heads + priors[:, None]])
    return both.argmax(-1).permute(2, 1, 0, 3)


class Confusion:
    """Counts of (label, prediction) for every peer, head and reading; see ``readings``.

    ``shared_accuracy`` is the mean over classes of the recall of a bare head: the accuracy that a uniform
    label distribution would give (beta_shared). ``private_accuracy`` weighs the recalls of a head with the
    prior by the peer's own training labels (beta_private).
    """

    def __init__(self, num_classes: int) -> None:
        self._classes = num_classes
        self._counts: dict[PeerName, Tensor] = {}
        self.best: dict[PeerName, int] = {}
        """Each peer's best head on the validation samples that were seen last; until then the main one."""

    def update(
        self,
        peers: Sequence[PeerName],
        predicted: Int[Tensor, "peers answers 2 batch"],
        y: Int[Tensor, " batch"],
    ) -> None:
        """Count one batch that all ``peers`` have read; samples of class ``NO_LABEL`` are left out."""
        there = y != NO_LABEL
        if not bool(there.all()):
            y, predicted = y[there], predicted[..., there]
        kinds = predicted.shape[:3]
        cells = y * self._classes + predicted
        offsets = torch.arange(kinds.numel(), device=y.device).view(*kinds, 1)
        square = self._classes**2
        counts = torch.bincount((cells + offsets * square).flatten(), minlength=kinds.numel() * square)
        for peer, row in zip(peers, counts.view(*kinds, self._classes, -1).cpu(), strict=True):
            self._counts[peer] = self._counts[peer] + row if peer in self._counts else row

    def compute(
        self, frequencies: dict[PeerName, Float[Tensor, " classes"]], head: Head, *, choose: bool
    ) -> dict[PeerName, dict[str, float]]:
        """Metrics of every peer that was shown a labelled sample; the counts begin anew.

        Args:
            frequencies: label distribution of each peer's private samples.
            head: the head whose accuracies are a peer's.
            choose: whether these are the samples on which a peer's best head is chosen.
        """
        metrics = {}
        for peer, counts in self._counts.items():
            total = counts.sum(-1)
            if not bool(total.any()):
                continue
            present = total[0, 0] > 0
            recall = counts.diagonal(dim1=-2, dim2=-1) / total.clamp(min=1)
            own = frequencies[peer] * present
            shared = recall[:, 0][:, present].mean(-1).tolist()
            private = ((recall[:, 1] * own).sum(-1) / own.sum().clamp(min=1e-12)).tolist()
            heads = max(1, len(shared) - 1)  # the last of several is their ensemble
            if choose:
                self.best[peer] = max(range(heads), key=shared.__getitem__)
            chosen = {
                "main": 0,
                "last": heads - 1,
                "best": self.best.get(peer, 0),
                "ensemble": len(shared) - 1,
            }[head]
            metrics[peer] = {"shared_accuracy": shared[chosen], "private_accuracy": private[chosen]}
            names = [*(f"head{h}" for h in range(heads)), "ensemble"] if heads > 1 else []
            for name, one, two in zip(names, shared, private, strict=False):
                metrics[peer] |= {f"{name}_shared_accuracy": one, f"{name}_private_accuracy": two}
        self._counts = {}
        return metrics
