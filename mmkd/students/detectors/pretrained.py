"""torchvision's own detectors with their published weights, as oracles that answer and never train."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.functional.detection.boxes import EMPTY
from mmkd.students.detectors.base import Detector, Found, Goal, Maps
from mmkd.types import ConfigError


class Torchvision(Detector):
    """One of torchvision's builders, such as ``fasterrcnn_resnet50_fpn_v2``, with weights of a local file.

    Labels are as torchvision numbers them: of the COCO models 3 is a car, 6 a bus and 8 a truck.

    Args:
        num_classes: of its weights, the background among them; 91 for COCO.
        name: of the builder.
        detections: slots of the answer.
    """

    def __init__(
        self, num_classes: int, *, name: str = "fasterrcnn_resnet50_fpn_v2", detections: int = 50
    ) -> None:
        super().__init__()
        from torchvision.models import detection, list_models

        if name not in list_models(module=detection):
            known = ", ".join(list_models(module=detection))
            raise ConfigError(f"torchvision has no detector '{name}'; it has {known}")
        self.model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes)
        self.num_classes, self.detections = num_classes, detections

    def outputs(self, x: Float[Tensor, "batch 3 height width"]) -> list[dict[str, Tensor]]:
        """Detections of each frame."""
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            found: list[dict[str, Tensor]] = self.model(list(x))
        self.model.train(was_training)
        return found

    def loss(self, outputs: Any, goal: Goal) -> Float[Tensor, ""]:
        """None.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "detector 'torchvision' answers and does not train; students are 'fcos', 'retinanet', ..."
        )

    def maps(self, outputs: Any) -> Maps:
        """None.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("detector 'torchvision' has no maps; let it teach boxes")

    def found(self, outputs: list[dict[str, Tensor]]) -> Found:
        """The surest of each frame."""
        size = self.detections
        like = outputs[0]["boxes"]
        boxes = like.new_zeros(len(outputs), size, 4)
        scores = like.new_zeros(len(outputs), size)
        labels = torch.full((len(outputs), size), EMPTY, dtype=torch.long, device=like.device)
        for i, found in enumerate(outputs):
            count = min(size, len(found["scores"]))
            boxes[i, :count], scores[i, :count] = found["boxes"][:count], found["scores"][:count]
            labels[i, :count] = found["labels"][:count]
        return Found(boxes, scores, labels)
