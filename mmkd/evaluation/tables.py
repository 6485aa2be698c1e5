"""Answers of peers as rows of a table, by peer and sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from mmkd.evaluation.scores import classes_of
from mmkd.types import NO_LABEL, Classes, Detections, PeerName, Predictions, Tags

BOXES = ("x1", "y1", "x2", "y2", "score", "class")
"""What a row says of a detection; corners in pixels."""


def header(gives: type[Predictions], width: int) -> list[str]:
    """Names of the columns of answers of that width; those of a classifier are class probabilities."""
    if gives is Detections:
        return ["peer", "sample", *BOXES]
    if gives is not Classes:
        said = "probability" if gives is Tags else "value"
        return ["peer", "sample", *(f"{what}_{i}" for what in ("label", said) for i in range(width))]
    return ["peer", "sample", "label", "prediction", *(f"probability_{i}" for i in range(width))]


def rows(
    gives: type[Predictions], peer: PeerName, ids: Tensor, labels: Tensor, answers: Tensor
) -> Iterator[Sequence[Any]]:
    """The rows of a peer's answers about a batch: one a sample, of detectors one a detection.

    Args:
        gives: what the students predict.
        peer: whose answers these are.
        ids: sample ids ``[batch]``.
        labels: ``[batch]`` classes, of which ``NO_LABEL`` is left blank, and of soft labels the likeliest;
            ``[batch, width]`` of tags and values; of detectors they are not written.
        answers: class probabilities ``[batch, classes]``, or detections ``[batch, slots, 6]``; probabilities
            of tags or values ``[batch, width]``.
    """
    samples = ids.tolist()
    if gives is Detections:
        for sample, found in zip(samples, answers.tolist(), strict=True):
            for *box, score, label in found:
                if label >= 0:  # a slot without a detection is of class -1
                    yield peer, sample, *box, score, int(label)
        return
    if gives is not Classes:
        for sample, true, said in zip(
            samples, labels.view(answers.shape).tolist(), answers.tolist(), strict=True
        ):
            yield peer, sample, *true, *said
        return
    best, labels = answers.argmax(-1).tolist(), classes_of(labels, answers.shape[-1])
    for sample, label, prediction, chances in zip(
        samples, labels.tolist(), best, answers.tolist(), strict=True
    ):
        yield peer, sample, "" if label == NO_LABEL else label, prediction, *chances
