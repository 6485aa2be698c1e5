"""SSDLite over MobileNetV3 of any width."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, mobilenet_v3_small
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead

from mmkd.functional.detection.anchors import by_overlap, shares
from mmkd.students.detectors.base import Goal, Maps
from mmkd.students.detectors.dense import Dense, Said, log_odds
from mmkd.students.detectors.one_stage import decoded, encoded


class SsdLite(Dense):
    """SSDLite (Liu et al. 2016; Sandler et al. 2018, section 6.2): default boxes on shrinking feature maps.

    Args:
        num_classes: without the background.
        height: of the frames, in pixels; channels of the maps are found by reading one.
        width: of the frames.
        small: MobileNetV3-Small, which suits small frames, instead of -Large.
        scale: of the channels of backbone and extra layers.
        detections: slots of the answer.
        nms: overlap above which the less sure of two boxes of a class is dropped.
        least: score below which nothing is answered.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        height: int = 320,
        width: int = 320,
        small: bool = False,
        scale: float = 1.0,
        detections: int = 50,
        nms: float = 0.55,
        least: float = 0.05,
    ) -> None:
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        make = mobilenet_v3_small if small else mobilenet_v3_large
        whole: Any = make(weights=None, width_mult=scale, norm_layer=norm, reduced_tail=True)
        strided = [i for i, block in enumerate(whole.features) if getattr(block, "_is_cn", False)]
        backbone = SSDLiteFeatureExtractorMobileNet(whole.features, strided[-1], norm, scale)
        with torch.no_grad():
            maps = backbone.eval()(torch.zeros(1, 3, height, width)).values()
        backbone.train()
        ratios = [[2, 3] for _ in maps]
        generator = DefaultBoxGenerator(ratios, min_ratio=0.2, max_ratio=0.95)
        channels = [m.shape[1] for m in maps]
        head = SSDLiteHead(channels, generator.num_anchors_per_location(), num_classes + 1, norm)
        model = SSD(backbone, generator, (width, height), num_classes + 1, head=head)
        super().__init__(model, num_classes, detections=detections, nms=nms, least=least)

    def loss(self, outputs: Said, goal: Goal) -> Float[Tensor, ""]:
        """Smooth L1 of box offsets, and cross entropy of classes and of the hardest of what is nothing."""
        model: Any = self.model
        head, anchors = outputs.head, outputs.anchors
        assigned = by_overlap(anchors, goal.boxes, goal.labels, high=0.5, low=0.5, claims=True)
        share = shares(assigned, anchors, goal.boxes, goal.labels, goal.weight)
        total = share.positive.sum().clamp(min=1)
        offsets = encoded(model.box_coder, goal.boxes, assigned.slot, assigned.positive, anchors)
        off = F.smooth_l1_loss(head["bbox_regression"], offsets, reduction="none").sum(-1)
        # The background comes first.
        right = (goal.labels.gather(1, assigned.slot) + 1) * assigned.positive
        wrong = F.cross_entropy(head["cls_logits"].transpose(1, 2), right, reduction="none")
        hard = (wrong.detach() * share.negative).masked_fill(share.negative == 0, -torch.inf)
        rank = hard.argsort(1, descending=True).argsort(1)
        hardest = rank < model.neg_to_pos_ratio * (share.positive > 0).sum(1, keepdim=True)
        counts = share.positive + share.negative * hardest
        loss: Tensor = ((off * share.positive).sum() + (wrong * counts).sum()) / total
        return loss

    def maps(self, outputs: Said) -> Maps:
        """Log-odds of each class against all others and the background."""
        log_p = F.log_softmax(outputs.head["cls_logits"], -1)[..., 1:]
        return Maps(log_odds(log_p), decoded(self.model, outputs))
