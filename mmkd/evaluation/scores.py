"""Scores of peers: counts of their predictions on labelled samples, and the metrics of these counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.evaluation.accuracy import Confusion, Head, readings
from mmkd.students.labels import BoxLabels, ClassLabels, Labels
from mmkd.types import Classes, ConfigError, Detections, DivergedError, PeerName

Metrics = dict[PeerName, dict[str, float]]
"""The metrics of each peer, by name."""


@runtime_checkable
class Scores(Protocol):
    """Counts predictions of peers batch by batch, and computes their metrics at the end."""

    main: str
    """The metric by which peers are compared: between 0 and 1, the greater the better. Every peer has it."""
    beside: tuple[str, ...]
    """Other metrics of every peer that a curve keeps."""
    labels: Labels
    """Kind of the labels that are read."""
    best: dict[PeerName, int]
    """Each peer's best head; a checkpoint keeps it."""

    def count(
        self,
        names: Sequence[PeerName],
        predictions: Any,
        y: Tensor,
        priors: Float[Tensor, "peers classes"] | None,
    ) -> None:
        """Count the predictions of peers on a batch.

        Args:
            names: peers that have read it.
            predictions: theirs, with a leading peer axis.
            y: labels.
            priors: logarithms of each peer's label prior, to be added to its logits; None for detectors.
        """

    def answers(self, names: Sequence[PeerName], predictions: Any) -> dict[PeerName, Tensor]:
        """Predictions of each peer on a batch as a user gets them, ``[batch, ...]``."""

    def metrics(self, split: str) -> Metrics:
        """Metrics of every peer that has read a batch; the counts begin anew."""


class Accuracies:
    """Accuracies of classifiers; see ``Confusion``.

    Args:
        num_classes: of the data.
        head: the head whose predictions are a peer's.
    """

    main: str = "shared_accuracy"
    beside: tuple[str, ...] = ("private_accuracy",)

    def __init__(self, num_classes: int, head: Head) -> None:
        self._confusion, self._head = Confusion(num_classes), head
        self.labels: Labels = ClassLabels(num_classes)
        self.best = self._confusion.best
        self.frequencies: dict[PeerName, Tensor] = {}
        """Label distribution of each peer's private samples."""

    def count(
        self,
        names: Sequence[PeerName],
        predictions: Classes,
        y: Tensor,
        priors: Float[Tensor, "peers classes"] | None,
    ) -> None:
        """Count labels and predicted classes of every head.

        Raises:
            DivergedError: the logits of a peer are not finite.
        """
        logits, auxiliary, _ = predictions
        _refuse_unsaid(names, logits)
        heads = torch.cat([logits[None], auxiliary.transpose(0, 1)])
        if priors is None:
            priors = logits.new_zeros(len(logits), logits.shape[-1])
        self._confusion.update(names, readings(heads, priors), y)

    def answers(self, names: Sequence[PeerName], predictions: Classes) -> dict[PeerName, Tensor]:
        """Class probabilities ``[batch, classes]`` of the chosen head."""
        logits, auxiliary, _ = predictions
        every, said = torch.cat([logits[None], auxiliary.transpose(0, 1)]).softmax(-1), {}
        for i, name in enumerate(names):
            best = self.best.get(name, 0)
            one = {"main": every[0], "last": every[-1], "best": every[best], "ensemble": every.mean(0)}
            said[name] = one[self._head][i]
        return said

    def metrics(self, split: str) -> Metrics:
        """Accuracies of every peer."""
        return self._confusion.compute(self.frequencies, self._head, choose=split == "val")


def _refuse_unsaid(names: Sequence[PeerName], logits: Float[Tensor, "peers batch classes"]) -> None:
    """The likeliest class of logits that are nan is the first, and an accuracy of that is a lie."""
    said = logits.amax(-1).isfinite()
    if not bool(said.all()):
        name = names[int((~said.all(-1)).nonzero()[0])]
        raise DivergedError(
            f"the logits of peer '{name}' are not finite, so it has no accuracy; lower its learning rate or"
            " set model.clip"
        )


class Precisions:
    """Precisions of detectors, compared by average precision at an IoU of 0.5; see ``Detections``.

    Args:
        num_classes: of the data.
        threshold: score from which on a detection counts for precision and recall.
    """

    main: str = "map50"
    beside: tuple[str, ...] = ()

    def __init__(self, num_classes: int, threshold: float) -> None:
        from mmkd.evaluation.precision import Detections as Curves  # imports a library for a second

        self._detections = Curves(threshold)
        self.labels: Labels = BoxLabels(num_classes)
        self.best: dict[PeerName, int] = {}

    def count(
        self,
        names: Sequence[PeerName],
        predictions: Detections,
        y: Tensor,
        priors: Float[Tensor, "peers classes"] | None,
    ) -> None:
        """Collect the detections of peers and the objects of a batch."""
        self._detections.update(names, predictions.boxes, y)

    def answers(self, names: Sequence[PeerName], predictions: Detections) -> dict[PeerName, Tensor]:
        """Detections ``[batch, slots, 6]``: corners in pixels, score, class."""
        return dict(zip(names, predictions.boxes, strict=True))

    def metrics(self, split: str) -> Metrics:
        """Average precisions of every peer.

        Raises:
            ConfigError: a peer was shown no object.
        """
        metrics = self._detections.compute()
        for name, kinds in metrics.items():
            if self.main not in kinds:
                raise ConfigError(
                    f"the {split} frames of '{name}' hold no object, so average precision has no meaning;"
                    " give it others"
                )
        return metrics


def scores_of(
    kind: type[Classes] | type[Detections], num_classes: int, head: Head, threshold: float
) -> Accuracies | Precisions:
    """The scores of predictions of a kind; other arguments are those of ``Accuracies`` and ``Precisions``."""
    return Precisions(num_classes, threshold) if kind is Detections else Accuracies(num_classes, head)
