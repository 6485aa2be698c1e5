"""torchvision's own detectors with published weights, as oracles that answer and never train."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.bounds import Size, bounded
from mmkd.functional.detection.boxes import EMPTY
from mmkd.students.detectors.base import BoxTargets, Detections, Detector, Maps
from mmkd.types import ConfigError


@bounded
class Torchvision(Detector):
    """One of torchvision's detection models, such as ``fasterrcnn_resnet50_fpn_v2``.

    Labels are torchvision's: in models trained on COCO 3 is a car, 6 a bus and 8 a truck.

    Args:
        num_classes: number of classes of the weights, the background included; 91 for COCO.
        name: of the model, one of ``torchvision.models.list_models(module=torchvision.models.detection)``.
        detections: slots of a frame's detections.

    Raises:
        ConfigError: torchvision has no such model.
    """

    def __init__(
        self, num_classes: Size, *, name: str = "fasterrcnn_resnet50_fpn_v2", detections: Size = 50
    ) -> None:
        super().__init__()
        from torchvision.models import detection, list_models

        if name not in list_models(module=detection):
            known = ", ".join(list_models(module=detection))
            raise ConfigError(f"torchvision has no detector '{name}'; it has {known}")
        self.model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes)
        self.num_classes, self.slots = num_classes, detections

    def outputs(self, x: Float[Tensor, "batch 3 height width"]) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each frame, as torchvision returns them, without gradients."""
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            frames: list[dict[str, Tensor]] = self.model(list(x))
        self.model.train(was_training)
        return frames

    def loss(self, outputs: Any, targets: BoxTargets) -> Float[Tensor, ""]:
        """There is no loss, for the network never trains.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("detector 'torchvision' answers and does not train; a student's detector is 'fcos'")

    def terms(self, x: Float[Tensor, "batch 3 height width"], targets: BoxTargets) -> Float[Tensor, ""]:
        """There is no loss.

        Raises:
            ConfigError: always.
        """
        return self.loss(None, targets)

    def maps(self, outputs: Any) -> Maps:
        """There are no maps, for torchvision's models return detections alone.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("detector 'torchvision' has no maps; let it teach boxes")

    def detections(self, outputs: list[dict[str, Tensor]]) -> Detections:
        """The detections of the highest scores of each frame."""
        slots = self.slots
        like = outputs[0]["boxes"]
        boxes = like.new_zeros(len(outputs), slots, 4)
        scores = like.new_zeros(len(outputs), slots)
        labels = torch.full((len(outputs), slots), EMPTY, dtype=torch.long, device=like.device)
        for i, frame in enumerate(outputs):
            count = min(slots, len(frame["scores"]))
            boxes[i, :count], scores[i, :count] = frame["boxes"][:count], frame["scores"][:count]
            labels[i, :count] = frame["labels"][:count]
        return Detections(boxes, scores, labels)
