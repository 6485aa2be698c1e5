"""Boxes ``x1, y1, x2, y2`` in pixels, many samples at once: overlap and fusion.

A sample has a fixed number of *slots*, of which some are empty; so detections stack like any other tensor.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EMPTY = -1
"""Class of a slot that holds nothing."""
KNOWN = -2
"""Class of a slot that holds no object but an area in which all objects are annotated. Where a sample has
such areas, a detection outside of them is neither right nor wrong; where it has none, all is annotated."""
UNLABELLED = -3
"""Class of an object without a label: a detection of it is neither right nor wrong."""


def area(boxes: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape"]:
    """Area in square pixels, 0 for a box that ends before it begins; in float32 for half precision."""
    # In float16 a box of 256 pixels each way would have an infinite area.
    boxes = _full(boxes)
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def overlap(
    a: Float[Tensor, "*batch a 4"], b: Float[Tensor, "*batch b 4"]
) -> tuple[Float[Tensor, "*batch a b"], Float[Tensor, "*batch a b"]]:
    """Intersection over union of every pair, and the union."""
    a, b = _full(a), _full(b)
    corner = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    other = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    common = (other - corner).clamp(min=0).prod(-1)
    union = area(a)[..., :, None] + area(b)[..., None, :] - common
    return common / union.clamp(min=1e-9), union


def iou(a: Float[Tensor, "*batch a 4"], b: Float[Tensor, "*batch b 4"]) -> Float[Tensor, "*batch a b"]:
    """Intersection over union of every pair, 0 for boxes without area."""
    return overlap(a, b)[0]


def generalised_iou(a: Float[Tensor, "*shape 4"], b: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape"]:
    """GIoU of boxes one by one (Rezatofighi et al. 2019, algorithm 1): between -1 and 1.

    Two boxes without area on one line have 0, where the paper's formula divides zero by zero.
    """
    ratio, union = (t[..., 0, 0] for t in overlap(a[..., None, :], b[..., None, :]))
    hull = torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1)
    whole = area(hull)
    return ratio - (whole - union) / whole.clamp(min=1e-9)


def centred(boxes: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 4"]:
    """``x, y, width, height`` of the boxes' centres."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def fuse(
    boxes: Float[Tensor, "samples speakers slots 4"],
    scores: Float[Tensor, "samples speakers slots"],
    labels: Int[Tensor, "samples speakers slots"],
    there: Bool[Tensor, "samples speakers"],
    limit: float,
) -> tuple[Float[Tensor, "samples slots 4"], Float[Tensor, "samples slots"], Int[Tensor, "samples slots"]]:
    """Fuse the detections of several speakers: weighted boxes fusion (Solovyev et al. 2021).

    Detections are taken in descending order of score. Each joins the cluster of its class whose box it
    overlaps most, if by an IoU of more than ``limit``, and else opens a cluster. A cluster's box is the mean
    of its members' boxes, weighed by score. Its score is the mean score of its members times members /
    speakers: what few speakers see is less sure. No gradient reaches the speakers' detections.

    Unlike in the paper, a cluster has one member of a speaker: where cars stand in a row, boxes of different
    cars overlap by more than any limit that joins those of one, and a speaker has removed its own duplicates.

    A speaker that is not ``there``, or whose detections are not finite, is not counted among the speakers;
    one that is there and detects nothing is. The order of the speakers has no effect.

    Returns:
        Boxes, scores and classes of each sample's surest clusters, the surest first; slots that are left over
        have box 0, score 0 and class ``EMPTY``. Half precision is returned in float32.
    """
    slots = scores.shape[2]
    boxes, scores = _full(boxes.detach()), _full(scores.detach())
    there = there & boxes.flatten(2).isfinite().all(-1) & scores.isfinite().all(-1)
    real = (there[:, :, None] & (labels >= 0) & (scores > 0)).flatten(1)
    box = boxes.flatten(1, 2).masked_fill(~real[..., None], 0.0)
    score, label = scores.flatten(1).masked_fill(~real, 0.0), labels.flatten(1).masked_fill(~real, EMPTY)
    order = _surest_first(box, score, label)
    box, score, label = (
        box.gather(1, order[..., None].expand(-1, -1, 4)),
        score.gather(1, order),
        label.gather(1, order),
    )
    speaker = order // slots
    most = int((score > 0).any(0).sum())

    # Clusters are numbered by the detection that opened them.
    mean, kind = torch.zeros_like(box), torch.full_like(label, EMPTY)
    mass = torch.zeros_like(score)
    # Which speakers each cluster has.
    spoke = torch.zeros(*score.shape, scores.shape[1], dtype=torch.bool, device=box.device)
    row = torch.arange(len(box), device=box.device)
    for place in range(most):
        new, weight, of = box[:, place], score[:, place], label[:, place]
        seen = slice(place + 1)  # the last of these is still empty, and overlaps nothing
        own = spoke[row, seen, speaker[:, place]]
        near = iou(mean[:, seen], new[:, None])[..., 0].masked_fill(own | (kind[:, seen] != of[:, None]), 0.0)
        best, nearest = near.max(1)
        joins = torch.where(best > limit, nearest, place)
        total = mass[row, joins] + weight
        # A running mean is exact for one member and for equal ones. A detection of score 0 does not move it.
        step = weight / total.masked_fill(total == 0, 1.0)
        mean[row, joins] += (new - mean[row, joins]) * step[:, None]
        mass[row, joins], kind[row, joins] = total, of
        spoke[row, joins, speaker[:, place]] |= weight > 0
    sure = mass / there.sum(1, keepdim=True).clamp(min=1)  # mean * members / speakers
    first = sure.argsort(dim=1, descending=True, stable=True)[:, :slots]
    return mean.gather(1, first[..., None].expand(-1, -1, 4)), sure.gather(1, first), kind.gather(1, first)


def settle(
    boxes: Float[Tensor, "frames slots 4"],
    scores: Float[Tensor, "frames slots"],
    labels: Int[Tensor, "frames slots"],
    limit: float,
) -> Float[Tensor, "frames slots 4"]:
    """Move boxes of a camera that stands still to the mean of the boxes that overlap them in other frames.

    A detector's error on a parked car differs from frame to frame, while the parking place stays. A
    box moves to the mean, by score, of itself and the boxes of its class in other frames that overlap it by
    an IoU of more than ``limit``, and from there once more (mean shift, Comaniciu and Meer 2002, eq. 20, with
    overlaps for distances). Scores and empty slots stay as they are. No gradient reaches the detections.
    """
    boxes = boxes.detach()
    real = (labels >= 0) & (scores > 0)
    own, weight, kind = boxes[real], scores.detach()[real], labels[real]
    frame = real.nonzero()[:, 0]
    place = own
    for _ in range(SHIFTS):
        moved = torch.empty_like(place)
        for rows in _close_together(place):
            # Only boxes that touch the hull of these can overlap one of them.
            least, most = place[rows, :2].amin(0), place[rows, 2:].amax(0)
            around = ((own[:, 2:] > least) & (own[:, :2] < most)).all(-1).nonzero()[:, 0]
            near = (iou(place[rows], own[around]) > limit) & (kind[rows, None] == kind[around])
            near &= frame[rows, None] != frame[around]
            counts, itself = near * weight[around], weight[rows, None]
            moved[rows] = (counts @ own[around] + itself * own[rows]) / (counts.sum(1, keepdim=True) + itself)
        place = moved
    settled = boxes.clone()
    settled[real] = place
    return settled


ROWS = 256
"""Number of boxes that ``settle`` moves at a time."""
SHIFTS = 2
"""Number of times that ``settle`` moves each box."""


def _close_together(boxes: Float[Tensor, "boxes 4"]) -> tuple[Int[Tensor, " some"], ...]:
    """Indices of all boxes in parts that lie close together: down strips that are about as wide as a box."""
    if not len(boxes):
        return ()
    x, y, width, _ = centred(boxes).unbind(-1)
    order = y.argsort()
    strip = (x[order] / width.median().clamp(min=1)).floor()
    parts: tuple[Tensor, ...] = order[strip.argsort(stable=True)].split(ROWS)
    return parts


def _surest_first(
    boxes: Float[Tensor, "samples all 4"],
    scores: Float[Tensor, "samples all"],
    labels: Int[Tensor, "samples all"],
) -> Int[Tensor, "samples all"]:
    """Indices of detections by descending score, then label, then box, whatever the order of speakers."""
    order = torch.arange(scores.shape[1], device=scores.device).expand_as(labels)
    for key in (*boxes.unbind(-1), labels, -scores):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    return order


def _full(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return values.to(torch.promote_types(values.dtype, torch.float32))
