"""Scores of taggers: F1 and the area under the ROC curve, each the mean over tags."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.evaluation.scores import Metrics, Pair, Scores, refuse_diverged, shaped
from mmkd.functional.partly_known import known_tags
from mmkd.students.labels import AsGiven, Labels
from mmkd.types import NO_LABEL, PeerName, Tags


def f1(fits: Bool[Tensor, "peers samples"], y: Bool[Tensor, " samples"]) -> Float[Tensor, " peers"]:
    """2 TP / (2 TP + FP + FN) of one tag for each peer; NaN where the tag neither fits nor is predicted."""
    right, all_ = (fits & y).sum(1), fits.sum(1) + y.sum()
    return 2 * right / all_.double()


def auroc(logits: Float[Tensor, "peers samples"], y: Bool[Tensor, " samples"]) -> Float[Tensor, " peers"]:
    """Chance that a sample with the tag has a greater logit than one without it; ties count half.

    NaN where all samples, or none, have the tag.
    """
    others, order = logits[:, ~y].sort(1).values, logits[:, y].contiguous()
    below, up_to = (torch.searchsorted(others, order, right=right) for right in (False, True))
    return (below + up_to).double().mean(1) / (2 * others.shape[1])


class Tagging(Scores):
    """Scores of taggers, which need all logits: they are kept until the end of an evaluation.

    ``f1`` is the mean over tags of 2 TP / (2 TP + FP + FN), where a tag is predicted if its probability is
    above 1/2; tags that neither fit a sample nor are predicted are left out, and without others it is 1.
    ``auroc`` is the mean area under the ROC curve over the tags that fit some samples and others not; a
    peer with no such tag has none. Labels between 0 and 1 fit above 1/2; unknown ones do not count.
    """

    main: str = "f1"

    def __init__(self) -> None:
        self.labels: Labels = AsGiven()
        self.best: dict[PeerName, int] = {}
        self._read: dict[tuple[PeerName, ...], list[tuple[Tensor, Tensor]]] = {}

    def count(self, names: Sequence[PeerName], predictions: Tags, y: Tensor, priors: Tensor | None) -> None:
        """Collect the logits of peers and the labels of a batch."""
        logits = predictions.logits.detach().float().cpu()
        refuse_diverged(names, logits)
        self._read.setdefault(tuple(names), []).append((logits, shaped(y, logits[0], "tags").float().cpu()))

    def answers(self, names: Sequence[PeerName], predictions: Tags) -> dict[PeerName, Tensor]:
        """Probabilities ``[batch, tags]``."""
        return dict(zip(names, predictions.logits.float().sigmoid(), strict=True))

    def pairs(self, names: Sequence[PeerName], predictions: Tags, y: Tensor) -> dict[PeerName, Pair]:
        """Probabilities ``[batch, tags]`` and 0, 1 or ``NO_LABEL``."""
        fits = (y > 0.5).long().masked_fill(~known_tags(y), NO_LABEL)
        return {name: (p, fits) for name, p in self.answers(names, predictions).items()}

    def metrics(self, split: str) -> Metrics:
        """Metrics of every peer that was shown a label."""
        found: Metrics = {}
        for names, parts in self._read.items():
            logits, y = torch.cat([z for z, _ in parts], 1), torch.cat([y for _, y in parts])
            known = known_tags(y)
            if not known.any():
                continue
            columns = [(logits[:, k, tag], y[k, tag] > 0.5) for tag, k in enumerate(known.T)]
            per_tag = torch.stack([f1(z > 0, fits) for z, fits in columns])
            area = torch.stack([auroc(z, fits) for z, fits in columns]).nanmean(0)
            for name, one, two in zip(
                names, per_tag.nanmean(0).nan_to_num(1.0).tolist(), area.tolist(), strict=True
            ):
                found[name] = {"f1": one} | ({"auroc": two} if two == two else {})
        self._read = {}
        return found
