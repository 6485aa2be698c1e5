"""The peers that read a batch of an evaluation, counts of labels, and label priors added to their logits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from mmkd.cohort.divergence import Divergence
from mmkd.cohort.groups.base import Group
from mmkd.cohort.peers import TOGETHER
from mmkd.cohort.trial import reading
from mmkd.data.base import PeerData
from mmkd.evaluation.scores import Scores
from mmkd.students.base import Classifier
from mmkd.types import Classes, DivergedError, Evaluation, PeerName, Predictions


def readers(groups: Sequence[Group], peers: Collection[PeerName]) -> Iterator[tuple[Group, list[int]]]:
    """Groups and their rows that are among ``peers``, so many at a time that predictions fit in memory."""
    wanted = set(peers)
    for group in groups:
        rows = [row for row, name in enumerate(group.names) if name in wanted]
        yield from ((group, rows[i : i + TOGETHER]) for i in range(0, len(rows), TOGETHER))


Predicted: TypeAlias = tuple[Group, list[int], list[PeerName], Predictions]
"""A group, some of its rows, the peers of these, and what they predict."""


def predicted(
    groups: Sequence[Group], batch: Evaluation, split: str, data: PeerData, absent: Collection[PeerName]
) -> Iterator[Predicted]:
    """What peers predict on a batch of an evaluation, but for those that are absent.

    Raises:
        ConfigError: they cannot read it.
    """
    for group, rows in readers(groups, [name for name in batch.peers if name not in absent]):
        names = [group.names[row] for row in rows]
        with reading(names, split, batch.x, data):
            predictions = group.predict(rows, batch.x)
        yield group, rows, names, predictions


def count(scores: Scores, found: Iterator[Predicted], y: Tensor, divergence: Divergence, round: int) -> None:
    """Count the scores of peers on a batch.

    Args:
        scores: count them.
        found: what peers predict.
        y: labels of the batch.
        divergence: decides about a peer that predicts what is no number.
        round: from which such a peer sits out.

    Raises:
        DivergedError: there is one, and the run is to stop.
    """
    for group, rows, names, predictions in found:
        while names:
            try:
                scores.count(names, predictions, y, priors(group, rows, predictions))
                break
            except DivergedError as error:
                if error.peer is None:
                    raise
                divergence.leave({error.peer: error.reason}, round)
                left = [i for i, name in enumerate(names) if name != error.peer]
                rows, names = [rows[i] for i in left], [names[i] for i in left]
                predictions = tree_map(lambda t, left=left: t[left], predictions)


def learn_labels(groups: Sequence[Group], data: PeerData, scores: Scores) -> None:
    """Check the labels of every peer, and tell students and scores how many there are of each class.

    Students that want to look at their samples do.

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
            if student.looks():
                student.look(partial(data.views, name))


def priors(
    group: Group, rows: Sequence[int], predictions: Predictions
) -> Float[Tensor, "rows classes"] | None:
    """Logarithms of the rows' label priors, to be added to their logits; None for detectors."""
    if not isinstance(group.students()[0], Classifier):
        return None
    assert isinstance(predictions, Classes)
    blank = predictions.logits.new_zeros(predictions.logits.shape[-1])
    return torch.stack([s.private_logits(blank) for s in group.visit(rows) if isinstance(s, Classifier)])
