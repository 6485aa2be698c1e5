"""Faster R-CNN: proposals, then a second look at each."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from mmkd.functional.detection.anchors import Assigned, by_overlap, shares
from mmkd.functional.detection.boxes import EMPTY, area
from mmkd.students.detectors.base import Detector, Found, Goal, Maps
from mmkd.students.detectors.dense import CANDIDATES, log_odds, normalised, slots
from mmkd.students.detectors.one_stage import Pyramid, encoded
from mmkd.students.detectors.places import Anchors


class Proposed(NamedTuple):
    """What the first stage says of a batch."""

    features: dict[str, Tensor]
    anchors: Float[Tensor, "places 4"]
    objectness: Float[Tensor, "batch places"]
    offsets: Float[Tensor, "batch places 4"]
    proposals: Float[Tensor, "batch proposals 4"]  # the surest, without gradients
    size: tuple[int, int]


class FasterRcnn(Detector):
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid, from torchvision's parts.

    All proposals of a frame are looked at and none is drawn at random: hard ones count by themselves, and
    negatives are divided by their number, so that a step needs no random stream.

    Args:
        num_classes: without the background.
        backbone: name of a timm model.
        channels: of the pyramid.
        hidden: units of the second stage.
        strides: of the pyramid's levels; anchors are four strides wide, in three shapes.
        proposals: of a frame.
        detections: slots of the answer.
        nms: overlap above which the less sure of two boxes of a class is dropped.
        least: score below which nothing is answered.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet18",
        channels: int = 64,
        hidden: int = 256,
        strides: tuple[int, ...] = (4, 8, 16),
        proposals: int = 100,
        detections: int = 50,
        nms: float = 0.5,
        least: float = 0.05,
    ) -> None:
        super().__init__()
        generator = Anchors(strides, tuple((4 * s,) for s in strides), ((0.5, 1.0, 2.0),) * len(strides))
        pool = MultiScaleRoIAlign([str(i) for i in range(len(strides))], output_size=7, sampling_ratio=2)
        self.model = FasterRCNN(
            Pyramid(backbone, channels, strides),
            rpn_anchor_generator=generator,
            rpn_post_nms_top_n_train=proposals,
            rpn_post_nms_top_n_test=proposals,
            rpn_pre_nms_top_n_train=4 * proposals,
            rpn_pre_nms_top_n_test=4 * proposals,
            box_roi_pool=pool,
            box_head=TwoMLPHead(channels * 49, hidden),
            box_predictor=FastRCNNPredictor(hidden, num_classes + 1),
        )
        self.num_classes, self.proposals = num_classes, proposals
        self.detections, self.nms, self.least = detections, nms, least

    def outputs(self, x: Float[Tensor, "batch 3 height width"]) -> Proposed:
        """Proposals."""
        model: Any = self.model
        height, width = x.shape[-2:]
        features = model.backbone(normalised(x))
        levels = list(features.values())
        anchors = model.rpn.anchor_generator(ImageList(x[:1], [(height, width)]), [f[:1] for f in levels])[0]
        objectness, offsets = model.rpn.head(levels)
        places = [o[0].numel() for o in objectness]
        objectness, offsets = concat_box_prediction_layers(objectness, offsets)
        objectness, offsets = objectness.view(len(x), -1), offsets.view(len(x), -1, 4)
        with torch.no_grad():
            flat = anchors.expand(offsets.shape).flatten(0, 1)
            boxes = model.rpn.box_coder.decode_single(offsets.flatten(0, 1), flat).view(offsets.shape)
            sizes = [(height, width)] * len(x)
            kept, _ = model.rpn.filter_proposals(boxes, objectness, sizes, places)
            proposals = _nowhere(boxes, len(x), self.proposals)
            for row, some in zip(proposals, kept, strict=True):
                row[: len(some)] = some[: self.proposals]
        return Proposed(features, anchors, objectness, offsets, proposals, (height, width))

    def loss(self, outputs: Proposed, goal: Goal) -> Float[Tensor, ""]:
        """Of both stages: cross entropy of what is there, and smooth L1 of box offsets."""
        model: Any = self.model
        boxes, labels = goal.boxes, goal.labels
        first = by_overlap(outputs.anchors, boxes, labels, high=0.7, low=0.3, claims=False)
        share = shares(first, outputs.anchors, boxes, labels, goal.weight)
        right = first.positive.to(boxes.dtype)
        wrong = F.binary_cross_entropy_with_logits(outputs.objectness, right, reduction="none")
        offsets = encoded(model.rpn.box_coder, boxes, first.slot, first.positive, outputs.anchors)
        off = F.smooth_l1_loss(outputs.offsets, offsets, beta=1 / 9, reduction="none").sum(-1)
        loss = _balanced(wrong, share.positive, share.negative) + _mean(off, share.positive)

        # True boxes join the proposals: at first no proposal is good enough to learn a box from.
        there = (labels >= 0) & (area(boxes) > 0)
        true = torch.where(there[..., None], boxes, _nowhere(boxes, *labels.shape))
        looked_at = torch.cat([outputs.proposals, true], 1)
        second, share_2 = self._second(looked_at, goal)
        scores, offsets = self._look(outputs.features, looked_at, outputs.size)
        classes = (labels.gather(1, second.slot) + 1) * second.positive
        wrong = F.cross_entropy(scores.transpose(1, 2), classes, reduction="none")
        wanted = torch.cat(
            [
                encoded(
                    model.roi_heads.box_coder,
                    boxes[i : i + 1],
                    second.slot[i : i + 1],
                    second.positive[i : i + 1],
                    looked_at[i],
                )
                for i in range(len(boxes))
            ]
        )
        own = classes[..., None, None].expand(*classes.shape, 1, 4)
        off = F.smooth_l1_loss(offsets.gather(2, own)[:, :, 0], wanted, beta=1 / 9, reduction="none").sum(-1)
        return loss + _balanced(wrong, share_2[0], share_2[1]) + _mean(off, share_2[0])

    def _second(self, looked_at: Tensor, goal: Goal) -> tuple[Assigned, tuple[Tensor, Tensor]]:
        """Which proposal is to find which box; each frame has proposals of its own."""
        parts, counts = [], []
        for i, places in enumerate(looked_at):
            one = goal.boxes[i : i + 1], goal.labels[i : i + 1]
            found = by_overlap(places, *one, high=0.5, low=0.5, claims=False)
            there = _somewhere(places)
            found = Assigned(found.slot, found.positive & there, found.negative & there)
            parts.append(found)
            counts.append(shares(found, places, *one, goal.weight[i : i + 1]))
        positive, negative = (torch.cat([c[j] for c in counts]) for j in (0, 1))
        return Assigned(*(torch.cat(leaves) for leaves in zip(*parts, strict=True))), (positive, negative)

    def _look(
        self, features: dict[str, Tensor], boxes: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Class logits ``[batch, boxes, 1 + classes]`` and offsets ``[..., 4]`` of each class."""
        heads: Any = self.model.roi_heads
        pooled = heads.box_roi_pool(features, list(boxes), [size] * len(boxes))
        scores, offsets = heads.box_predictor(heads.box_head(pooled))
        batch, count = boxes.shape[:2]
        return scores.view(batch, count, -1), offsets.view(batch, count, -1, 4)

    def maps(self, outputs: Proposed) -> Maps:
        """One place a proposal."""
        scores, offsets = self._look(outputs.features, outputs.proposals, outputs.size)
        best = scores[..., 1:].argmax(-1) + 1
        own = offsets.gather(2, best[..., None, None].expand(*best.shape, 1, 4))[:, :, 0]
        coder: Any = self.model.roi_heads.box_coder
        flat = coder.decode_single(own.flatten(0, 1), outputs.proposals.flatten(0, 1))
        there = _somewhere(outputs.proposals)[..., None]
        log_p = F.log_softmax(scores, -1)[..., 1:].masked_fill(~there, -30.0)
        return Maps(log_odds(log_p), flat.view(own.shape))

    @torch.no_grad()
    def found(self, outputs: Proposed) -> Found:
        """What is left after non-maximum suppression."""
        logits, boxes = self.maps(outputs)
        height, width = outputs.size
        limit = boxes.new_tensor([width, height, width, height])
        scores, labels = logits.sigmoid().max(-1)
        scores, order = scores.topk(min(CANDIDATES, scores.shape[1]), 1)
        boxes = boxes.gather(1, order[..., None].expand(*order.shape, 4)).clamp(min=0).minimum(limit)
        labels = labels.gather(1, order).masked_fill(scores == 0, EMPTY)
        return slots(boxes, scores, labels, self.detections, nms=self.nms, least=self.least)


def _nowhere(like: Tensor, batch: int, count: int) -> Tensor:
    """Boxes that fill up a frame's proposals: outside of it, and of a size that has a logarithm."""
    return like.new_tensor([-1.0, -1.0, 0.0, 0.0]).expand(batch, count, 4).clone()


def _somewhere(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] > 0).all(-1)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1)


def _balanced(values: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """As much of what is there as of what is not, as the papers' sampling has it on average."""
    return (_mean(values, positive) + _mean(values, negative)) / 2
