"""The interface of detectors: a forward pass, a loss on weighted boxes, and detections in slots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn


class BoxTargets(NamedTuple):
    """Boxes that a detector learns to predict, in a fixed number of slots.

    Labels are classes, ``EMPTY`` for a slot without an object, or ``KNOWN`` for an area in which all objects
    are annotated (``mmkd.functional.detection.boxes``). Around a box of weight 0 neither a detection nor the
    lack of one costs anything.
    """

    boxes: Float[Tensor, "batch slots 4"]  # x1, y1, x2, y2 in pixels
    labels: Int[Tensor, "batch slots"]
    weight: Float[Tensor, "batch slots"]  # of the box in the loss: 1, or the confidence of a teacher


class Detections(NamedTuple):
    """Detected boxes in descending order of score; an empty slot has score 0 and class ``EMPTY``."""

    boxes: Float[Tensor, "*peers batch slots 4"]  # x1, y1, x2, y2 in pixels
    scores: Float[Tensor, "*peers batch slots"]
    labels: Int[Tensor, "*peers batch slots"]


class Maps(NamedTuple):
    """Predictions at every place of the feature maps, before non-maximum suppression."""

    logits: Float[Tensor, "*peers batch places classes"]  # log-odds of the score of each class
    boxes: Float[Tensor, "*peers batch places 4"]


class Detector(nn.Module, ABC):
    """A network that detects objects of ``num_classes`` classes in frames of one size."""

    num_classes: int

    @abstractmethod
    def outputs(self, x: Float[Tensor, "batch 3 height width"]) -> Any:
        """The forward pass on frames of 0 to 1; the other methods take what it returns."""

    @abstractmethod
    def loss(self, outputs: Any, targets: BoxTargets) -> Float[Tensor, ""]:
        """Mean loss over the batch."""

    @abstractmethod
    def terms(self, x: Float[Tensor, "batch 3 height width"], targets: BoxTargets) -> Float[Tensor, ""]:
        """By what ``loss`` is divided, or by 1 if that is less; it follows from frames and targets alone."""

    @abstractmethod
    def maps(self, outputs: Any) -> Maps:
        """Predictions at every place."""

    @abstractmethod
    def detections(self, outputs: Any) -> Detections:
        """Detections of each frame, without gradients."""
