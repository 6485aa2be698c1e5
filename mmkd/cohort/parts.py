"""Parts of local batches, weighted so that their gradients add up to that of the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.cohort.groups.base import Group
from mmkd.data.blocks import cut
from mmkd.students.base import Classifier, Student, Teachable
from mmkd.types import Batch, Batches

Share = float | Float[Tensor, " peers"]
"""Weight of a part's loss in that of the whole batch, the same for all peers or one number each."""


def parts_of(group: Group, batches: Batches, count: int) -> list[tuple[Batches, Share]]:
    """At most ``count`` parts of every peer's batch, and the weight of each.

    A loss is a sum over terms, divided by their number or by 1 if that is less; so a part's weight is its
    number of terms over that of the whole batch. Most losses are means over samples. Losses of labels and of
    targets may be divided by different numbers: then a part has another weight (``keep``) of its labels, too.
    """
    pieces = cut(batches, count)
    student = group.students()[0]
    labels = taught = None
    # ``cut`` has counted samples, and labels of batches that teach nothing else.
    counted = type(student).terms in (Student.terms, Classifier.terms)
    counted &= batches.labelled is None or batches.target is None
    if len(pieces) > 1 and batches.y is not None and not counted:
        labels = _shares(group, [piece for piece, _ in pieces], _labels)
    if len(pieces) > 1 and batches.target is not None:
        taught = _shares(group, [piece for piece, _ in pieces], _taught)
    if labels is None and taught is None:
        return [*pieces]
    weighed = list[tuple[Batches, Share]]()
    for i, (piece, size) in enumerate(pieces):
        one: Share = size if labels is None else labels[i]
        if taught is None:
            weighed.append((piece, one))
        elif piece.y is None:
            weighed.append((piece, taught[i]))
        else:
            assert piece.keep is not None
            keep, other = piece.keep.double(), taught[i]
            both = keep * one + (1 - keep) * other
            alike = other == one
            rest = (keep * one / both).nan_to_num()
            piece = piece._replace(keep=torch.where(alike, keep, rest).to(piece.keep.dtype))
            weighed.append((piece, torch.where(alike, other, both)))
    return weighed


def _labels(student: Student, batch: Batch) -> Tensor:
    return student.terms(batch)


def _taught(student: Student, batch: Batch) -> Tensor:
    assert isinstance(student, Teachable)
    assert batch.target is not None
    return student.taught_terms(batch.x, batch.target)


def _shares(
    group: Group, pieces: Sequence[Batches], counted: Callable[[Student, Batch], Tensor]
) -> Float[Tensor, "parts peers"]:
    """Weights of parts, whose terms are counted."""
    terms = torch.stack([group.terms(counted, piece) for piece in pieces]).double()
    return terms.clamp(min=1) / terms.sum(0).clamp(min=1)
