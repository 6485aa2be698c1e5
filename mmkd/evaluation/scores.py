"""Scores of peers: counts of their predictions on labelled samples, and the metrics of these counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mmkd.evaluation.accuracy import Confusion, Head, readings
from mmkd.students.labels import BoxLabels, ClassLabels, Labels
from mmkd.types import NO_LABEL, Classes, ConfigError, Detections, DivergedError, PeerName

Metrics: TypeAlias = dict[PeerName, dict[str, float]]
"""The metrics of each peer, by name."""
Pair: TypeAlias = tuple[Any, Any]
"""What a peer says of a batch and what is true, as the metrics of torchmetrics are updated with them."""


class Scores(ABC):
    """Counts predictions of peers batch by batch, and computes their metrics at the end."""

    main: str
    """The metric by which peers are compared: at most 1, the greater the better. Every peer has it."""
    beside: tuple[str, ...] = ()
    """Other metrics of every peer that a curve keeps."""
    least: float = 0.0
    """The least value of the main metric."""
    labels: Labels
    """Kind of the labels that are read."""
    best: dict[PeerName, int]
    """Each peer's best head; a checkpoint keeps it."""

    def observe(self, name: PeerName, counts: Shaped[Tensor, " classes"]) -> None:
        """Take the counts of a peer's training labels; only accuracies have a use for them."""
        return

    @abstractmethod
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

    @abstractmethod
    def answers(self, names: Sequence[PeerName], predictions: Any) -> dict[PeerName, Tensor]:
        """Predictions of each peer on a batch as a user gets them, ``[batch, ...]``."""

    @abstractmethod
    def pairs(self, names: Sequence[PeerName], predictions: Any, y: Tensor) -> dict[PeerName, Pair]:
        """Predictions of each peer on a batch and the labels, as torchmetrics compares them."""

    @abstractmethod
    def metrics(self, split: str) -> Metrics:
        """Metrics of every peer that was shown a labelled sample; the counts begin anew."""


class Accuracies(Scores):
    """Accuracies of classifiers; see ``Confusion``.

    Args:
        num_classes: of the data.
        head: the head whose predictions are a peer's.
    """

    main: str = "shared_accuracy"
    beside: tuple[str, ...] = ("private_accuracy",)

    def __init__(self, num_classes: int, head: Head) -> None:
        self._confusion, self._head, self._classes = Confusion(num_classes), head, num_classes
        self.labels: Labels = ClassLabels(num_classes)
        self.best = self._confusion.best
        self.frequencies: dict[PeerName, Tensor] = {}
        """Label distribution of each peer's private samples."""

    def observe(self, name: PeerName, counts: Shaped[Tensor, " classes"]) -> None:
        """Take the distribution of a peer's training labels; without any, all classes weigh alike."""
        total, size = counts.sum(), len(counts)
        even = torch.full((size,), 1 / size, dtype=torch.float64)
        self.frequencies[name] = counts.double() / total if total else even

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
        refuse_diverged(names, logits.amax(-1, keepdim=True))  # a class may be ruled out
        heads = torch.cat([logits[None], auxiliary.transpose(0, 1)])
        if priors is None:
            priors = logits.new_zeros(len(logits), logits.shape[-1])
        self._confusion.update(names, readings(heads, priors), classes_of(y, self._classes))

    def answers(self, names: Sequence[PeerName], predictions: Classes) -> dict[PeerName, Tensor]:
        """Class probabilities ``[batch, classes]`` of the chosen head."""
        logits, auxiliary, _ = predictions
        every, said = torch.cat([logits[None], auxiliary.transpose(0, 1)]).softmax(-1), {}
        for i, name in enumerate(names):
            best = self.best.get(name, 0)
            one = {"main": every[0], "last": every[-1], "best": every[best], "ensemble": every.mean(0)}
            said[name] = one[self._head][i]
        return said

    def pairs(self, names: Sequence[PeerName], predictions: Classes, y: Tensor) -> dict[PeerName, Pair]:
        """Class probabilities of the chosen head, and classes, of the samples that have a label."""
        y = classes_of(y, self._classes)
        said, labelled = self.answers(names, predictions), y != NO_LABEL
        return {name: (p[labelled].float(), y[labelled]) for name, p in said.items()}

    def metrics(self, split: str) -> Metrics:
        """Accuracies of every peer."""
        return self._confusion.compute(self.frequencies, self._head, choose=split == "val")


class Precisions(Scores):
    """Precisions of detectors, compared by average precision at an IoU of 0.5; see ``Detections``.

    Args:
        num_classes: of the data.
        threshold: score from which on a detection counts for precision and recall.
    """

    main: str = "map50"

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
        """Collect the detections of peers and the objects of a batch.

        Raises:
            DivergedError: the boxes of a peer are not finite.
        """
        refuse_diverged(names, predictions.boxes)
        self._detections.update(names, predictions.boxes, y)

    def answers(self, names: Sequence[PeerName], predictions: Detections) -> dict[PeerName, Tensor]:
        """Detections ``[batch, slots, 6]``: corners in pixels, score, class."""
        return dict(zip(names, predictions.boxes, strict=True))

    def pairs(self, names: Sequence[PeerName], predictions: Detections, y: Tensor) -> dict[PeerName, Pair]:
        """Boxes, scores and labels of each frame, of detections and of labelled objects."""
        truth = [_boxes(frame) for frame in y]
        return {n: ([_boxes(f) for f in said], truth) for n, said in self.answers(names, predictions).items()}

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


def classes_of(y: Tensor, num_classes: int) -> Int[Tensor, " batch"]:
    """Labels of classifiers as classes: of soft labels the likeliest, ``NO_LABEL`` where there is none.

    Raises:
        ConfigError: they are neither whole numbers nor probabilities of classes.
    """
    if y.dim() == 1 and (not y.is_floating_point() or bool((y == y.floor()).all())):
        return y.long()
    if y.is_floating_point() and y.shape[1:] == (num_classes,):
        known = ~y.isnan().any(1)
        sums = y[known].sum(1)
        if torch.allclose(sums, torch.ones_like(sums), atol=1e-3) and not bool((y < 0).any()):
            return y.argmax(1).masked_fill(~known, NO_LABEL)
    kind = str(y.dtype).removeprefix("torch.")
    raise ConfigError(
        f"labels of shape {list(y.shape[1:])} and type {kind} are no classes, so accuracy has no meaning: set"
        " gives of the student to Tags or Values, or trainer.limit_val_batches to 0"
    )


def shaped(
    y: Shaped[Tensor, "batch ..."], said: Float[Tensor, "batch outputs"], what: str
) -> Shaped[Tensor, "batch outputs"]:
    """Labels in the shape of what a peer says.

    Raises:
        ConfigError: they have another.
    """
    if y.shape == said.shape[:1] and said.shape[1] == 1:
        return y[:, None]
    if y.shape != said.shape:
        raise ConfigError(
            f"labels have the shape {list(y.shape[1:])}, and students give {said.shape[1]} {what}: set"
            " num_classes of the data to how many there are"
        )
    return y


def refuse_diverged(names: Sequence[PeerName], said: Float[Tensor, "peers batch ..."]) -> None:
    """Refuse predictions that are no numbers, of which a score would tell a lie.

    Raises:
        DivergedError: a peer makes such predictions.
    """
    finite = said.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        name = names[int((~finite).nonzero()[0])]
        raise DivergedError("what it predicts is not finite, so it has no score", name)


def _boxes(rows: Float[Tensor, "slots columns"]) -> dict[str, Tensor]:
    """Boxes as torchmetrics reads them, without empty slots."""
    real = rows[rows[:, -1] >= 0]
    named = {"boxes": real[:, :4], "labels": real[:, -1].long()}
    return named | {"scores": real[:, 4]} if rows.shape[1] == 6 else named
