"""Scores of peers: what is counted of their predictions on labelled samples, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.evaluation.accuracy import Confusion, Head, readings
from mmkd.students.labels import BoxLabels, ClassLabels, Labels
from mmkd.types import Classes, ConfigError, Detections, DivergedError, PeerName

Metrics = dict[PeerName, dict[str, float]]
"""The metrics of each peer, by name."""


class Scores(Protocol):
    """Counts what peers predict on batches, until somebody asks for their metrics."""

    main: str
    """The metric by which peers are compared: a share of 1, the greater the better. Every peer has it."""
    beside: tuple[str, ...]
    """Metrics of every peer that a curve keeps beside the main one."""
    labels: Labels
    """The labels that it reads."""
    best: dict[PeerName, int]
    """Each peer's best head; a checkpoint keeps it."""

    def count(
        self,
        names: Sequence[PeerName],
        predictions: Any,
        y: Tensor,
        priors: Float[Tensor, "peers classes"] | None,
    ) -> None:
        """Peers have read a batch.

        Args:
            names: those who have read it.
            predictions: theirs, with a leading peer axis.
            y: labels.
            priors: what puts each peer's label prior back into its logits, if its student has such a thing.
        """

    def answers(self, names: Sequence[PeerName], predictions: Any) -> dict[PeerName, Tensor]:
        """What peers answer about a batch, ``[batch, ...]`` each."""

    def metrics(self, split: str) -> Metrics:
        """Of every peer that has read a batch; what was counted is forgotten."""


class Accuracies:
    """Of classifiers; see ``Confusion``.

    Args:
        num_classes: of the data.
        head: whose answers a peer's are.
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
        """Right and wrong answers of every head.

        Raises:
            DivergedError: a peer says nothing of a sample, for its logits are not finite.
        """
        logits, auxiliary, _ = predictions
        _refuse_unsaid(names, logits)
        heads = torch.cat([logits[None], auxiliary.transpose(0, 1)])
        if priors is None:
            priors = logits.new_zeros(len(logits), logits.shape[-1])
        self._confusion.update(names, readings(heads, priors), y)

    def answers(self, names: Sequence[PeerName], predictions: Classes) -> dict[PeerName, Tensor]:
        """Class probabilities ``[batch, classes]``."""
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
    """Of detectors, which are compared by the average precision at an IoU of 0.5; see ``Detections``.

    Args:
        num_classes: of the data.
        threshold: score from which on a detection counts for precision and recall.
    """

    main: str = "map50"
    beside: tuple[str, ...] = ()

    def __init__(self, num_classes: int, threshold: float) -> None:
        from mmkd.evaluation.precision import Detections as Curves  # its library takes a second to import

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
        """What is found and what is not."""
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
    """What is counted of predictions of a kind; arguments are those of the two."""
    return Precisions(num_classes, threshold) if kind is Detections else Accuracies(num_classes, head)
