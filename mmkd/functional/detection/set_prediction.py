"""Detection as prediction of a set: each object is found by one query, and the others find nothing.

Predicted boxes are ``x, y, width, height`` of the centre, objects ``x1, y1, x2, y2``, both as shares of the
frame's width and height. Slots whose label is negative hold no object (``mmkd.functional.detection.boxes``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.functional.detection.boxes import EMPTY, KNOWN, centred, cornered, generalised_iou, iou

Assign = Callable[[Tensor], tuple[Any, Any]]
"""Rows and columns of the cheapest one-to-one assignment, from a matrix of costs on the CPU; SciPy's
``linear_sum_assignment`` is one."""


def focal_cost(
    logits: Float[Tensor, "batch queries classes"],
    labels: Int[Tensor, "batch slots"],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Tensor, "batch queries slots"]:
    """Focal loss of saying the object's class, less that of not saying it (Zhu et al. 2021)."""
    p = logits.sigmoid()
    yes = alpha * (1 - p) ** gamma * F.softplus(-logits)
    no = (1 - alpha) * p**gamma * F.softplus(logits)
    return _of_class(yes - no, labels)


def probability_cost(
    logits: Float[Tensor, "batch queries classes"], labels: Int[Tensor, "batch slots"]
) -> Float[Tensor, "batch queries slots"]:
    """``-p`` of the object's class under a softmax (Carion et al. 2020, DETR, section 3.1)."""
    return -_of_class(logits.softmax(-1), labels)


def _of_class(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(2, labels.clamp(min=0)[:, None].expand(-1, values.shape[1], -1))


def box_cost(
    boxes: Float[Tensor, "batch queries 4"], objects: Float[Tensor, "batch slots 4"]
) -> Float[Tensor, "batch queries slots"]:
    """``5 L1 - 2 GIoU`` of every pair: the box loss of DETR (section 3.1) up to a constant."""
    away = (boxes[:, :, None] - centred(objects)[:, None]).abs().sum(-1)
    told, wanted = torch.broadcast_tensors(cornered(boxes)[:, :, None], objects[:, None])
    return 5 * away - 2 * generalised_iou(told, wanted)


@torch.no_grad()
def match(
    cost: Float[Tensor, "batch queries slots"], labels: Int[Tensor, "batch slots"], assign: Assign
) -> Int[Tensor, "batch queries"]:
    """The slot whose object a query is to find, ``EMPTY`` for those that find none (DETR, eq. 1).

    A cost that is not a number is the highest: training that diverged must show in the loss, not here.
    """
    worst = torch.finfo(torch.float32).max
    matrix = cost.float().nan_to_num(nan=worst, posinf=worst).cpu()
    slots = torch.full(cost.shape[:2], EMPTY)
    for sample, there in enumerate(labels.cpu() >= 0):
        columns = there.nonzero()[:, 0]
        queries, chosen = (torch.as_tensor(t) for t in assign(matrix[sample][:, columns]))
        slots[sample, queries] = columns[chosen]
    return slots.to(labels.device)


class Answer(NamedTuple):
    """What every query is to say."""

    labels: Int[Tensor, "batch queries"]  # EMPTY: it is to find nothing
    boxes: Float[Tensor, "batch queries 4"]  # of the object, or what it says already
    counts: Float[Tensor, "batch queries"]  # how much it counts


def answer(
    slots: Int[Tensor, "batch queries"],
    boxes: Float[Tensor, "batch queries 4"],
    objects: Float[Tensor, "batch slots 4"],
    labels: Int[Tensor, "batch slots"],
    weight: Float[Tensor, "batch slots"],
) -> Answer:
    """What matched queries owe their objects.

    A matched query counts as much as its object, so one that is matched to an object of weight 0 may say what
    it likes. Others count once, but not at all if the centre of their box lies outside of a sample's
    annotated areas.
    """
    found, slot = slots >= 0, slots.clamp(min=0)
    areas = labels == KNOWN
    centre = boxes.detach()[:, :, None, :2]
    inside = ((centre >= objects[:, None, :, :2]) & (centre <= objects[:, None, :, 2:])).all(-1)
    seen = (inside & areas[:, None]).any(-1) | ~areas.any(-1, keepdim=True)
    wanted = objects.gather(1, slot[..., None].expand(-1, -1, 4))
    return Answer(
        labels.gather(1, slot).masked_fill(~found, EMPTY),
        torch.where(found[..., None], wanted, cornered(boxes.detach())),
        torch.where(found, weight.gather(1, slot), seen.to(weight.dtype)),
    )


def varifocal(
    logits: Float[Tensor, "batch queries classes"],
    labels: Int[Tensor, "batch queries"],
    quality: Float[Tensor, "batch queries"],
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Float[Tensor, "batch queries"]:
    """Varifocal loss of every query, summed over classes (Zhang et al. 2021, VarifocalNet, eq. 2).

    Args:
        logits: of each class on its own.
        labels: class that is to be found, or ``EMPTY``.
        quality: IoU of its box, which is the target of that class.
        alpha: weight of classes that are not to be found.
        gamma: power of their probability, by which they count.
    """
    classes = torch.arange(logits.shape[-1], device=logits.device)
    right = (labels[..., None] == classes).to(logits.dtype)
    target = right * quality[..., None]
    weight = alpha * logits.detach().sigmoid() ** gamma * (1 - right) + target
    return F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="none").sum(-1)


def box_loss(
    boxes: Float[Tensor, "batch queries 4"], wanted: Float[Tensor, "batch queries 4"]
) -> Float[Tensor, "batch queries"]:
    """``5 L1 + 2 (1 - GIoU)`` of every query (DETR, section 3.1)."""
    away = (boxes - centred(wanted)).abs().sum(-1)
    return 5 * away + 2 * (1 - generalised_iou(cornered(boxes), wanted))


def sigmoid_set_loss(
    logits: Float[Tensor, "batch queries classes"],
    boxes: Float[Tensor, "batch queries 4"],
    objects: Float[Tensor, "batch slots 4"],
    labels: Int[Tensor, "batch slots"],
    weight: Float[Tensor, "batch slots"],
    assign: Assign,
) -> Float[Tensor, ""]:
    """Loss of RT-DETR (Zhao et al. 2024), whose classes are independent: varifocal, L1 and GIoU.

    Args:
        logits: what every query says of each class.
        boxes: where it says that.
        objects: boxes of the objects and of annotated areas.
        labels: classes, ``EMPTY`` or ``KNOWN``.
        weight: how much finding an object counts: 1, or a teacher's confidence.
        assign: solves the assignment of queries to objects.

    Returns:
        The sum over the batch, divided by the sum of weights, or by 1 if that is less.
    """
    slots = match(2 * focal_cost(logits, labels) + box_cost(boxes, objects), labels, assign)
    told = answer(slots, boxes, objects, labels, weight)
    quality = iou(cornered(boxes.detach())[..., None, :], told.boxes[..., None, :])[..., 0, 0]
    classes = varifocal(logits, told.labels, quality) * told.counts
    return (classes.sum() + _boxes(boxes, told)) / _total(labels, weight)


def softmax_set_loss(
    logits: Float[Tensor, "batch queries outcomes"],
    boxes: Float[Tensor, "batch queries 4"],
    objects: Float[Tensor, "batch slots 4"],
    labels: Int[Tensor, "batch slots"],
    weight: Float[Tensor, "batch slots"],
    assign: Assign,
    *,
    nothing: float = 0.1,
) -> Float[Tensor, ""]:
    """Loss of DETR (Carion et al. 2020) and YOLOS: cross entropy, L1 and GIoU; the last outcome is no object.

    Args:
        logits: what every query says of each class, and of there being nothing.
        boxes: where it says that.
        objects: boxes of the objects and of annotated areas.
        labels: classes, ``EMPTY`` or ``KNOWN``.
        weight: how much finding an object counts: 1, or a teacher's confidence.
        assign: solves the assignment of queries to objects.
        nothing: how much a query counts that is to find nothing.

    Returns:
        The mean cross entropy of all queries as they count, and the sum of the boxes' losses divided by the
        sum of weights, or by 1 if that is less.
    """
    slots = match(probability_cost(logits, labels) + box_cost(boxes, objects), labels, assign)
    told = answer(slots, boxes, objects, labels, weight)
    empty = told.labels == EMPTY
    outcome = told.labels.masked_fill(empty, logits.shape[-1] - 1)
    counts = torch.where(empty, nothing * told.counts, told.counts)
    wrong = F.cross_entropy(logits.transpose(1, 2), outcome, reduction="none")
    # One query that is to find nothing counts as much as the least divisor.
    classes = (wrong * counts).sum() / counts.sum().clamp(min=nothing)
    return classes + _boxes(boxes, told) / _total(labels, weight)


def _boxes(boxes: Tensor, told: Answer) -> Tensor:
    return (box_loss(boxes, told.boxes) * told.counts * (told.labels >= 0)).sum()


def _total(labels: Tensor, weight: Tensor) -> Tensor:
    return (weight * (labels >= 0)).sum().clamp(min=1)
