"""Targets of a detector, made of a batch's labels or of the detections that others teach."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.functional.detection.boxes import EMPTY, KNOWN, UNLABELLED
from mmkd.students.detectors.base import BoxTargets


def labelled(y: Float[Tensor, "batch slots 5"]) -> BoxTargets:
    """Targets of labels, corners and class; an object whose class is ``UNLABELLED`` has weight 0."""
    y = _some_slot(y)
    unlabelled = y[..., 4] == UNLABELLED
    labels = y[..., 4].long().masked_fill(unlabelled, 0)  # of weight 0, any class will do
    return BoxTargets(y[..., :4], labels, (~unlabelled).to(y.dtype))


def taught(values: Float[Tensor, "batch slots 6"], weight: Float[Tensor, " batch"]) -> BoxTargets:
    """Targets of detections: corners, weight and class.

    Of a sample of weight 0, about which nobody said anything, the only annotated area lies outside of the
    frame: nothing is learned from it.
    """
    boxes, weights, labels = values[..., :4], values[..., 4], values[..., 5].long()
    silent = (weight == 0)[:, None]
    first = torch.arange(labels.shape[1], device=labels.device) == 0
    labels = torch.where(silent, torch.where(first, KNOWN, EMPTY), labels)
    outside = boxes.new_tensor([-2.0, -2.0, -2.0, -2.0])
    boxes = torch.where(silent[..., None], outside, boxes)
    return BoxTargets(boxes, labels, weights * weight[:, None])


def _some_slot(values: Float[Tensor, "batch slots size"]) -> Float[Tensor, "batch some size"]:
    """The same with one empty slot where there is none; losses look for the nearest of at least one box."""
    if values.shape[1]:
        return values
    blank = values.new_zeros(len(values), 1, values.shape[2])
    return torch.cat([blank[..., :-1], blank[..., -1:] + EMPTY], -1)


def mirrored(boxes: Float[Tensor, "batch slots size"], width: int) -> Float[Tensor, "batch slots size"]:
    """Boxes of frames of that width, mirrored from left to right; what stands behind corners stays."""
    return torch.cat([width - boxes[..., 2:3], boxes[..., 1:2], width - boxes[..., 0:1], boxes[..., 3:]], -1)
