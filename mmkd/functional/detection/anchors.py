"""Assignment of boxes to the places of feature maps, and the losses of a place.

A *place* is one cell of a feature map; its *anchor* is a square around it, as wide as the map's stride. All
samples are computed at once and without boolean indexing, so that everything goes through ``vmap``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmkd.functional.detection.boxes import KNOWN, area, generalised_iou


class Assigned(NamedTuple):
    """The box that each place is to predict."""

    slot: Int[Tensor, "batch places"]  # of the box; 0 where the place is to predict none
    positive: Bool[Tensor, "batch places"]  # whether the place is to predict a box


def by_centre(
    anchors: Float[Tensor, "places 4"],
    least: Float[Tensor, " places"],
    most: Float[Tensor, " places"],
    boxes: Float[Tensor, "batch slots 4"],
    labels: Int[Tensor, "batch slots"],
    weight: Float[Tensor, "batch slots"],
    *,
    radius: float,
) -> Assigned:
    """Assign to each place the smallest box whose centre is near (Tian et al. 2022, FCOS, section 2.1).

    A box of weight 0 never takes a place from a box of positive weight.

    Args:
        anchors: of the places.
        least: the distance from a place to the farthest side of its box is greater than this, in pixels.
        most: the same distance is less than this.
        boxes: of the samples.
        labels: of the boxes.
        weight: of the boxes.
        radius: greatest distance from a place to the centre of its box, in strides.
    """
    centre, stride = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    near = (centre - middle[..., None, :]).abs().amax(-1) < radius * stride
    sides = torch.cat([centre - boxes[..., None, :2], boxes[..., None, 2:] - centre], -1)
    far = sides.amax(-1)
    match = near & (sides.amin(-1) > 0) & (far > least) & (far < most) & (labels >= 0)[..., None]
    # Boxes of weight 0 are ordered after all others, and among themselves by area.
    size = area(boxes)
    size = torch.where(weight > 0, size, size + area(boxes).amax(1, keepdim=True))
    size = size[..., None].expand(match.shape).masked_fill(~match, torch.inf)
    smallest, slot = size.min(1)
    return Assigned(slot, smallest < torch.inf)


class Share(NamedTuple):
    """The weight of each place in a detector's loss."""

    positive: Float[Tensor, "batch places"]  # the weight of its box, 0 where it is to predict none
    negative: Float[Tensor, "batch places"]  # 1 where it is to predict that there is no object


def shares(
    assigned: Assigned,
    anchors: Float[Tensor, "places 4"],
    boxes: Float[Tensor, "batch slots 4"],
    labels: Int[Tensor, "batch slots"],
    weight: Float[Tensor, "batch slots"],
) -> Share:
    """Weights of places; one without a box has weight 0 if it lies outside of a sample's annotated areas."""
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = (centre >= boxes[..., None, :2]).all(-1) & (centre <= boxes[..., None, 2:]).all(-1)
    areas = labels == KNOWN
    annotated = (inside & areas[..., None]).any(1) | ~areas.any(1, keepdim=True)
    positive = weight.gather(1, assigned.slot) * assigned.positive
    return Share(positive, (~assigned.positive & annotated).to(weight.dtype))


def focal(
    logits: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Tensor, "*shape"]:
    """Focal loss of each logit (Lin et al. 2017, eq. 5); ``target`` is 0 or 1."""
    wrong = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    right = p * target + (1 - p) * (1 - target)
    return (alpha * target + (1 - alpha) * (1 - target)) * (1 - right) ** gamma * wrong


def gather(values: Float[Tensor, "batch slots 4"], slot: Int[Tensor, "batch places"]) -> Tensor:
    """The box of each place's slot, ``[batch, places, 4]``."""
    return values.gather(1, slot[..., None].expand(*slot.shape, 4))


def map_distance(
    logits: Float[Tensor, "batch places classes"],
    boxes: Float[Tensor, "batch places 4"],
    target_logits: Float[Tensor, "batch places classes"],
    target_boxes: Float[Tensor, "batch places 4"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Distance between the logits and boxes that a detector predicts at every place and their targets.

    Classes: quality focal loss, cross entropy with the target's probability, scaled by the squared difference
    of the two probabilities (Li et al. 2020, "Generalized focal loss", eq. 5). Boxes: GIoU, weighted by the
    target's greatest probability; a target box of less than a pixel has weight 0, for the gradient of such
    overlaps is unbounded. Both are divided by the sum of the targets' greatest probabilities, so that places
    without an object do not dilute the loss.
    """
    p = target_logits.sigmoid()
    gap = (logits.sigmoid() - p).square()
    wrong = (F.binary_cross_entropy_with_logits(logits, p, reduction="none") * gap).sum((1, 2))
    surest = p.amax(-1)
    off = ((1 - generalised_iou(boxes, target_boxes)) * surest * (area(target_boxes) >= 1)).sum(1)
    return ((wrong + off) * weight).sum() / (surest.sum(1) * weight).sum().clamp(min=1)
