"""Which of many places is to find which box, and what it costs: dense detectors on weighed boxes.

All samples at once and without indexing by masks, so that it goes through ``vmap``. Where a sample has no box
left, a place is matched to slot 0 and counts for nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmkd.functional.detection.boxes import KNOWN, area, generalised_iou, iou


class Assigned(NamedTuple):
    """What each place is to say."""

    slot: Int[Tensor, "batch places"]  # the box that it is to find, where it is positive
    positive: Bool[Tensor, "batch places"]
    negative: Bool[Tensor, "batch places"]  # it is to find nothing; neither, and it may say what it likes


def by_overlap(
    anchors: Float[Tensor, "places 4"],
    boxes: Float[Tensor, "batch slots 4"],
    labels: Int[Tensor, "batch slots"],
    *,
    high: float,
    low: float,
    claims: bool,
) -> Assigned:
    """Places whose anchor overlaps a box by ``high`` find it; those below ``low`` find nothing.

    A box that no anchor overlaps as much still gets the anchors that overlap it most, as in RetinaNet and
    Faster R-CNN; with ``claims`` the first of these is its own even if another box overlaps it more, as in
    SSD (Liu et al. 2016, section 2.2). A box that no anchor overlaps at all, such as one without area, gets
    none.
    """
    found = iou(boxes, anchors.expand(len(boxes), *anchors.shape)).masked_fill((labels < 0)[..., None], -1.0)
    best, slot = found.max(1)
    positive, negative = best >= high, best < low
    most = found.max(2, keepdim=True).values
    if claims:
        claimed = F.one_hot(found.argmax(2), len(anchors)).bool() & (most > 0)
        order = torch.arange(1, labels.shape[1] + 1, device=labels.device)[:, None]
        last = (claimed * order).max(1).values  # two boxes may claim one place: the later has it
        rescued, slot = last > 0, torch.where(last > 0, last - 1, slot)
    else:
        rescued = ((found == most) & (most > 0)).any(1)
    return Assigned(slot, positive | rescued, negative & ~rescued)


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
    """Places near the centre of a box find it, the smallest of several (Tian et al. 2022, FCOS, section 2.1).

    A box of weight 0 takes no place from one that is to be found.

    Args:
        anchors: squares as wide as their level's stride, around the places.
        least: the farthest side of a box must be farther than this from the place, in pixels.
        most: and nearer than this.
        boxes: of the samples.
        labels: of the boxes.
        weight: of the boxes.
        radius: in strides.
    """
    centre, stride = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    near = (centre - middle[..., None, :]).abs().amax(-1) < radius * stride
    sides = torch.cat([centre - boxes[..., None, :2], boxes[..., None, 2:] - centre], -1)
    far = sides.amax(-1)
    match = near & (sides.amin(-1) > 0) & (far > least) & (far < most) & (labels >= 0)[..., None]
    # Doubtful boxes come after all others, in the order of their sizes too.
    size = area(boxes)
    size = torch.where(weight > 0, size, size + area(boxes).amax(1, keepdim=True))
    size = size[..., None].expand(match.shape).masked_fill(~match, torch.inf)
    smallest, slot = size.min(1)
    return Assigned(slot, smallest < torch.inf, smallest == torch.inf)


class Share(NamedTuple):
    """How much each place counts."""

    positive: Float[Tensor, "batch places"]  # the weight of its box, where it is to find one
    negative: Float[Tensor, "batch places"]  # 1 where it is to find nothing


def shares(
    assigned: Assigned,
    anchors: Float[Tensor, "places 4"],
    boxes: Float[Tensor, "batch slots 4"],
    labels: Int[Tensor, "batch slots"],
    weight: Float[Tensor, "batch slots"],
) -> Share:
    """Weights of boxes handed to places; outside of annotated areas nobody is told to find nothing."""
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = (centre >= boxes[..., None, :2]).all(-1) & (centre <= boxes[..., None, 2:]).all(-1)
    areas = labels == KNOWN
    seen = (inside & areas[..., None]).any(1) | ~areas.any(1, keepdim=True)
    positive = weight.gather(1, assigned.slot) * assigned.positive
    return Share(positive, (assigned.negative & seen).to(weight.dtype))


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
    """Boxes of the slots, ``[batch, places, 4]``."""
    return values.gather(1, slot[..., None].expand(*slot.shape, 4))


def map_distance(
    logits: Float[Tensor, "batch places classes"],
    boxes: Float[Tensor, "batch places 4"],
    told_logits: Float[Tensor, "batch places classes"],
    told_boxes: Float[Tensor, "batch places 4"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """How far a detector's maps are from those that it is told.

    Classes: quality focal loss, cross entropy with the told probability as its target, scaled by the squared
    difference of the two (Li et al. 2020, "Generalized focal loss", eq. 5). Boxes: GIoU, weighed by the told
    probability; a told box of less than a pixel draws none, for such overlaps have slopes without bound. Both
    over the sum of told probabilities, so that places where nothing is do not thin it out.
    """
    p = told_logits.sigmoid()
    gap = (logits.sigmoid() - p).square()
    wrong = (F.binary_cross_entropy_with_logits(logits, p, reduction="none") * gap).sum((1, 2))
    surest = p.amax(-1)
    off = ((1 - generalised_iou(boxes, told_boxes)) * surest * (area(told_boxes) >= 1)).sum(1)
    return ((wrong + off) * weight).sum() / (surest.sum(1) * weight).sum().clamp(min=1)
