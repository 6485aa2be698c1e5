"""Detections in a fixed number of slots, so that those of many frames stack."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.functional.detection.boxes import EMPTY
from mmkd.students.detectors.base import Detections


def in_slots(
    boxes: Float[Tensor, "batch candidates 4"],
    scores: Float[Tensor, "batch candidates"],
    labels: Int[Tensor, "batch candidates"],
    slots: int,
) -> Detections:
    """The ``slots`` detections of the highest scores above 0 of each frame.

    Args:
        boxes: of the candidates.
        scores: of the candidates.
        labels: of the candidates.
        slots: detections of a frame; where there are fewer candidates, the last slots are empty.
    """
    batch, count = scores.shape
    scores, order = scores.topk(min(slots, count), 1)
    real = scores > 0
    boxes = boxes.gather(1, order[..., None].expand(*order.shape, 4)) * real[..., None]
    labels = labels.gather(1, order).masked_fill(~real, EMPTY)
    short = slots - scores.shape[1]
    if short > 0:
        boxes = torch.cat([boxes, boxes.new_zeros(batch, short, 4)], 1)
        scores = torch.cat([scores, scores.new_zeros(batch, short)], 1)
        labels = torch.cat([labels, labels.new_full((batch, short), EMPTY)], 1)
    return Detections(boxes, scores, labels)
