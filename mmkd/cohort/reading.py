"""The peers that read a batch of an evaluation, and the label priors that are added to their logits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.cohort.groups.base import Group
from mmkd.cohort.peers import TOGETHER
from mmkd.students.base import Classifier
from mmkd.types import Classes, PeerName, Predictions


def readers(groups: Sequence[Group], peers: Collection[PeerName]) -> Iterator[tuple[Group, list[int]]]:
    """Groups and their rows that are among ``peers``, so many at a time that predictions fit in memory."""
    wanted = set(peers)
    for group in groups:
        rows = [row for row, name in enumerate(group.names) if name in wanted]
        yield from ((group, rows[i : i + TOGETHER]) for i in range(0, len(rows), TOGETHER))


def priors(
    group: Group, rows: Sequence[int], predictions: Predictions
) -> Float[Tensor, "rows classes"] | None:
    """Logarithms of the rows' label priors, to be added to their logits; None for detectors."""
    if not isinstance(group.students()[0], Classifier):
        return None
    assert isinstance(predictions, Classes)
    blank = predictions.logits.new_zeros(predictions.logits.shape[-1])
    return torch.stack([s.private_logits(blank) for s in group.visit(rows) if isinstance(s, Classifier)])
