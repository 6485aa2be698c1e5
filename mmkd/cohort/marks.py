"""How well peers do on labelled samples: what is asked of students, and what is made of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mmkd.cohort.group import Group
from mmkd.cohort.metrics import Confusion, Head, readings
from mmkd.students.base import Classifier
from mmkd.types import ConfigError, Evaluation, PeerName

Metrics = dict[PeerName, dict[str, float]]


class Marks(Protocol):
    """Counts what rows of a group say of a batch, until somebody asks for metrics."""

    best: dict[PeerName, int]
    """Each peer's best head; a checkpoint keeps it."""

    def count(self, group: Group, rows: list[int], batch: Evaluation) -> None:
        """Rows read a batch."""

    def said(self, group: Group, rows: list[int], batch: Evaluation) -> dict[PeerName, Tensor]:
        """What rows say of a batch, ``[batch, ...]`` each."""

    def metrics(self, split: str) -> Metrics:
        """Of every peer that has read; what was counted is forgotten."""


class Accuracies:
    """Of classifiers; see ``Confusion``.

    Args:
        num_classes: of the data.
        head: whose answers a peer's are.
    """

    def __init__(self, num_classes: int, head: Head) -> None:
        self._confusion, self._head = Confusion(num_classes), head
        self.best = self._confusion.best
        self.frequencies: dict[PeerName, Tensor] = {}
        """Label distribution of each peer's private samples."""

    def count(self, group: Group, rows: list[int], batch: Evaluation) -> None:
        """Right and wrong answers of every head."""
        logits, auxiliary, _ = group.predict(rows, batch.x)
        heads = torch.cat([logits[None], auxiliary.transpose(0, 1)])
        blank = logits.new_zeros(logits.shape[-1])
        students = group.visit(rows)
        priors = [s.private_logits(blank) if isinstance(s, Classifier) else blank for s in students]
        self._confusion.update(_names(group, rows), readings(heads, torch.stack(priors)), batch.y)

    def said(self, group: Group, rows: list[int], batch: Evaluation) -> dict[PeerName, Tensor]:
        """Class probabilities ``[batch, classes]``."""
        logits, auxiliary, _ = group.predict(rows, batch.x)
        every, said = torch.cat([logits[None], auxiliary.transpose(0, 1)]).softmax(-1), {}
        for i, name in enumerate(_names(group, rows)):
            best = self.best.get(name, 0)
            one = {"main": every[0], "last": every[-1], "best": every[best], "ensemble": every.mean(0)}
            said[name] = one[self._head][i]
        return said

    def metrics(self, split: str) -> Metrics:
        """Accuracies of every peer."""
        return self._confusion.compute(self.frequencies, self._head, choose=split == "val")


class Precisions:
    """Of detectors; see ``Detections``. A peer's accuracies are its average precision at an IoU of 0.5.

    Args:
        threshold: score from which on a detection counts for precision and recall.
    """

    def __init__(self, threshold: float) -> None:
        from mmkd.cohort.detection_metrics import Detections  # its library takes a second to import

        self._detections = Detections(threshold)
        self.best: dict[PeerName, int] = {}

    def count(self, group: Group, rows: list[int], batch: Evaluation) -> None:
        """What is found and what is not."""
        self._detections.update(_names(group, rows), group.predict(rows, batch.x).logits, batch.y)

    def said(self, group: Group, rows: list[int], batch: Evaluation) -> dict[PeerName, Tensor]:
        """Detections ``[batch, slots, 6]``: corners in pixels, score, class."""
        return dict(zip(_names(group, rows), group.predict(rows, batch.x).logits, strict=True))

    def metrics(self, split: str) -> Metrics:
        """Average precisions of every peer.

        Raises:
            ConfigError: a peer was shown no object.
        """
        metrics = self._detections.compute()
        for name, kinds in metrics.items():
            if "map50" not in kinds:
                raise ConfigError(
                    f"the {split} frames of '{name}' hold no object, so average precision has no meaning;"
                    " give it others"
                )
            kinds |= {"shared_accuracy": kinds["map50"], "private_accuracy": kinds["map50"]}
        return metrics


def _names(group: Group, rows: Sequence[int]) -> list[PeerName]:
    return [group.names[row] for row in rows]
