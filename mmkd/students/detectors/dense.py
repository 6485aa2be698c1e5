"""Detectors that say something at every place: torchvision's networks, with losses on weighed boxes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from mmkd.functional.detection.boxes import EMPTY
from mmkd.students.detectors.base import Detector, Found, Maps

MEAN = (0.485, 0.456, 0.406)
"""The mean of red, green and blue in ImageNet, which pretrained backbones expect to be subtracted."""
STD = (0.229, 0.224, 0.225)
"""The standard deviation of red, green and blue in ImageNet, by which the rest is divided."""


def normalised(x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Pixels of 0 to 1 as pretrained backbones expect them."""
    mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (x - mean) / std


class Said(NamedTuple):
    """What the head says of a batch."""

    head: dict[str, Tensor]  # each [batch, places, ...]
    anchors: Float[Tensor, "places 4"]
    levels: list[int]  # places of each feature map
    size: tuple[int, int]  # height and width of the frames


class Dense(Detector):
    """A torchvision detector with a dense head.

    Its images are neither resized nor padded, unlike torchvision's: frames of a camera have one size.

    Args:
        model: has ``backbone``, ``anchor_generator``, ``head`` and ``box_coder``.
        num_classes: without the background.
        detections: slots of the answer.
        nms: boxes of a class that overlap a surer one by more than this are dropped.
        least: detections below this score are dropped.
    """

    def __init__(
        self, model: nn.Module, num_classes: int, *, detections: int, nms: float, least: float
    ) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        self.detections, self.nms, self.least = detections, nms, least

    def outputs(self, x: Float[Tensor, "batch 3 height width"]) -> Said:
        """The head's answer at every place, and the anchors."""
        model: Any = self.model
        x = normalised(x)
        height, width = x.shape[-2:]
        features = list(model.backbone(x).values())
        # One frame's anchors serve all.
        one = ImageList(x[:1], [(height, width)])
        anchors = model.anchor_generator(one, [f[:1] for f in features])[0]
        places = [f.shape[-2] * f.shape[-1] for f in features]
        each = model.anchor_generator.num_anchors_per_location()
        levels = [n * a for n, a in zip(places, each, strict=True)]
        return Said(model.head(features), anchors, levels, (height, width))

    @abstractmethod
    def maps(self, outputs: Said) -> Maps:
        """Log-odds of each class's score, and the boxes, at every place."""

    @torch.no_grad()
    def found(self, outputs: Said) -> Found:
        """What is left after non-maximum suppression."""
        logits, boxes = self.maps(outputs)
        scores, places = logits.sigmoid().flatten(1).topk(min(CANDIDATES, logits[0].numel()), 1)
        labels = places % self.num_classes
        height, width = outputs.size
        limit = boxes.new_tensor([width, height, width, height])
        places = (places // self.num_classes)[..., None].expand(*places.shape, 4)
        boxes = boxes.gather(1, places).clamp(min=0).minimum(limit)
        return slots(boxes, scores, labels, self.detections, nms=self.nms, least=self.least)


CANDIDATES = 1000
"""Places of a frame that go into the suppression."""


def slots(
    boxes: Tensor, scores: Tensor, labels: Tensor, size: int, *, nms: float | None, least: float
) -> Found:
    """The surest ``size`` of a batch's candidates, suppressed class by class if ``nms`` is given."""
    batch, count = scores.shape
    if nms is not None:
        scores = scores * _kept(boxes, scores, labels, nms)
    scores = scores * (scores >= least)
    scores, order = scores.topk(min(size, count), 1)
    there = scores > 0
    boxes = boxes.gather(1, order[..., None].expand(*order.shape, 4)) * there[..., None]
    labels = labels.gather(1, order).masked_fill(~there, EMPTY)
    short = size - scores.shape[1]
    if short > 0:
        boxes = torch.cat([boxes, boxes.new_zeros(batch, short, 4)], 1)
        scores = torch.cat([scores, scores.new_zeros(batch, short)], 1)
        labels = torch.cat([labels, labels.new_full((batch, short), EMPTY)], 1)
    return Found(boxes, scores, labels)


@torch.library.custom_op("mmkd::kept", mutates_args=())
def _kept(boxes: Tensor, scores: Tensor, labels: Tensor, limit: float) -> Tensor:
    """Which of a batch's boxes torchvision's suppression keeps, ``[batch, boxes]``.

    torchvision answers with a list whose length depends on the boxes, which ``vmap`` cannot take.
    """
    frame = torch.arange(len(labels), device=labels.device)[:, None]
    apart = frame * (labels.max() + 1) + labels
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept.view(-1)[batched_nms(boxes.flatten(0, 1), scores.flatten(), apart.flatten(), limit)] = True
    return kept


@torch.library.register_vmap(_kept)  # type: ignore[untyped-decorator]  # it has no types
def _kept_of_peers(
    info: Any, in_dims: Any, boxes: Tensor, scores: Tensor, labels: Tensor, limit: float
) -> Any:
    """Peers are more frames."""
    size = info.batch_size
    moved = [
        t.movedim(dim, 0) if dim is not None else t.expand(size, *t.shape)
        for t, dim in zip((boxes, scores, labels), in_dims, strict=False)
    ]
    return _kept(*(t.flatten(0, 1) for t in moved), limit).unflatten(0, (size, -1)), 0


def log_odds(log_p: Tensor) -> Tensor:
    """Of a probability, from its logarithm."""
    log_p = log_p.clamp(max=-1e-6)
    return log_p - torch.log(-torch.expm1(log_p))
