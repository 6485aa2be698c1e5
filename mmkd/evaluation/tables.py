"""Answers of peers as rows of a table, by peer and sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from mmkd.types import NO_LABEL, Detections, PeerName, Predictions

BOXES = ("x1", "y1", "x2", "y2", "score", "class")
"""What a row says of a detection; corners in pixels."""


def header(gives: type[Predictions], width: int) -> list[str]:
    """Names of the columns of answers of that width; those of a classifier are class probabilities."""
    if gives is Detections:
        return ["peer", "sample", *BOXES]
    return ["peer", "sample", "label", "prediction", *(f"probability_{i}" for i in range(width))]


def rows(
    gives: type[Predictions], peer: PeerName, ids: Tensor, labels: Tensor, answers: Tensor
) -> Iterator[Sequence[Any]]:
    """The rows of a peer's answers about a batch: one a sample, of detectors one a detection.

    Args:
        gives: what the students predict.
        peer: whose answers these are.
        ids: sample ids ``[batch]``.
        labels: ``[batch]`` classes, of which ``NO_LABEL`` is left blank; of detectors they are not written.
        answers: class probabilities ``[batch, classes]``, or detections ``[batch, slots, 6]``.
    """
    samples = ids.tolist()
    if gives is Detections:
        for sample, found in zip(samples, answers.tolist(), strict=True):
            for *box, score, label in found:
                if label >= 0:  # a slot without a detection is of class -1
                    yield peer, sample, *box, score, int(label)
        return
    best = answers.argmax(-1).tolist()
    for sample, label, prediction, chances in zip(
        samples, labels.tolist(), best, answers.tolist(), strict=True
    ):
        yield peer, sample, "" if label == NO_LABEL else label, prediction, *chances
