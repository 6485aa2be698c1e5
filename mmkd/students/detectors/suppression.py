"""Non-maximum suppression of many frames at once, which goes through ``vmap``."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms


# torch would infer the schema from the annotations, of which it knows no shapes.
@torch.library.custom_op(
    "mmkd::kept",
    mutates_args=(),
    schema="(Tensor boxes, Tensor scores, Tensor labels, float limit) -> Tensor",
)
def kept(
    boxes: Float[Tensor, "batch boxes 4"],
    scores: Float[Tensor, "batch boxes"],
    labels: Int[Tensor, "batch boxes"],
    limit: float,
) -> Bool[Tensor, "batch boxes"]:
    """Which boxes torchvision's suppression keeps, class by class.

    torchvision returns a list whose length depends on the boxes, which ``vmap`` cannot take.

    Args:
        boxes: corners.
        scores: of the boxes.
        labels: of the boxes.
        limit: IoU above which the box of the lower score is dropped.
    """
    frame = torch.arange(len(labels), device=labels.device)[:, None]
    group = frame * (labels.max() + 1) + labels
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask.view(-1)[batched_nms(boxes.flatten(0, 1), scores.flatten(), group.flatten(), limit)] = True
    return mask


@kept.register_fake
def _like_kept(boxes: Tensor, scores: Tensor, labels: Tensor, limit: float) -> Tensor:
    """What shape the answer has, for whoever traces a student without computing it."""
    return torch.empty_like(scores, dtype=torch.bool)


@torch.library.register_vmap(kept)  # type: ignore[untyped-decorator]  # it has no types
def _kept_of_peers(
    info: Any, in_dims: Any, boxes: Tensor, scores: Tensor, labels: Tensor, limit: float
) -> Any:
    """The batching rule: frames of several peers are suppressed like more frames of one."""
    size = info.batch_size
    moved = [
        t.movedim(dim, 0) if dim is not None else t.expand(size, *t.shape)
        for t, dim in zip((boxes, scores, labels), in_dims, strict=False)
    ]
    return kept(*(t.flatten(0, 1) for t in moved), limit).unflatten(0, (size, -1)), 0
