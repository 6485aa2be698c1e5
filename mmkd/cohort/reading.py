"""The peers that read a batch of an evaluation, counts of labels, and label priors added to their logits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.cohort.groups.base import Group
from mmkd.cohort.peers import TOGETHER
from mmkd.cohort.trial import reading
from mmkd.data.base import PeerData
from mmkd.evaluation.scores import Scores
from mmkd.students.base import Classifier
from mmkd.types import Classes, Evaluation, PeerName, Predictions


def readers(groups: Sequence[Group], peers: Collection[PeerName]) -> Iterator[tuple[Group, list[int]]]:
    """Groups and their rows that are among ``peers``, so many at a time that predictions fit in memory."""
    wanted = set(peers)
    for group in groups:
        rows = [row for row, name in enumerate(group.names) if name in wanted]
        yield from ((group, rows[i : i + TOGETHER]) for i in range(0, len(rows), TOGETHER))


Predicted: TypeAlias = tuple[Group, list[int], list[PeerName], Predictions]
"""A group, some of its rows, the peers of these, and what they predict."""


def predicted(groups: Sequence[Group], batch: Evaluation, split: str, data: PeerData) -> Iterator[Predicted]:
    """What peers predict on a batch of an evaluation.

    Raises:
        ConfigError: they cannot read it.
    """
    for group, rows in readers(groups, batch.peers):
        names = [group.names[row] for row in rows]
        with reading(names, split, batch.x, data):
            predictions = group.predict(rows, batch.x)
        yield group, rows, names, predictions


def learn_labels(groups: Sequence[Group], data: PeerData, scores: Scores) -> None:
    """Check the labels of every peer, and tell students and scores how many there are of each class.

    Args:
        groups: of students.
        data: hold the labels.
        scores: of the students' predictions.

    Raises:
        ConfigError: some cannot be read; the peer is named.
    """
    for group in groups:
        for name, student in zip(group.names, group.visit(range(len(group.names))), strict=True):
            data.reader(name, "train")
            counts = data.label_counts(name)
            scores.observe(name, counts)
            if isinstance(student, Classifier):
                student.observe(counts)


def priors(
    group: Group, rows: Sequence[int], predictions: Predictions
) -> Float[Tensor, "rows classes"] | None:
    """Logarithms of the rows' label priors, to be added to their logits; None for detectors."""
    if not isinstance(group.students()[0], Classifier):
        return None
    assert isinstance(predictions, Classes)
    blank = predictions.logits.new_zeros(predictions.logits.shape[-1])
    return torch.stack([s.private_logits(blank) for s in group.visit(rows) if isinstance(s, Classifier)])
