"""What every detector is: outputs, a loss on weighed boxes, and detections in a fixed number of slots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn


class Goal(NamedTuple):
    """What is to be found.

    ``labels`` are classes, ``EMPTY``, or ``KNOWN`` for an annotated area
    (``mmkd.functional.detection.boxes``). A box of weight 0 is neither to be found nor to be left out:
    whatever lies there costs nothing.
    """

    boxes: Float[Tensor, "batch slots 4"]  # x1, y1, x2, y2 in pixels
    labels: Int[Tensor, "batch slots"]
    weight: Float[Tensor, "batch slots"]  # how much finding it counts: 1, or a teacher's confidence


class Found(NamedTuple):
    """Detections, the surest first; slots that hold none have score 0 and class ``EMPTY``."""

    boxes: Float[Tensor, "batch slots 4"]
    scores: Float[Tensor, "batch slots"]
    labels: Int[Tensor, "batch slots"]


class Maps(NamedTuple):
    """What it says at every place, before suppression: one box a place, and log-odds of each class."""

    logits: Float[Tensor, "batch places classes"]
    boxes: Float[Tensor, "batch places 4"]


class Detector(nn.Module, ABC):
    """A network that finds objects of ``num_classes`` classes in frames of one size."""

    num_classes: int

    @abstractmethod
    def outputs(self, x: Float[Tensor, "batch 3 height width"]) -> Any:
        """What the network says of frames (0 to 1), with gradients; for the three below."""

    @abstractmethod
    def loss(self, outputs: Any, goal: Goal) -> Float[Tensor, ""]:
        """Mean over the batch."""

    @abstractmethod
    def maps(self, outputs: Any) -> Maps:
        """What it says at every place."""

    @abstractmethod
    def found(self, outputs: Any) -> Found:
        """Its detections."""
