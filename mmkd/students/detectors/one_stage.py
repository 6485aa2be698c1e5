"""FCOS and RetinaNet: a feature pyramid of any width under torchvision's heads."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS, FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork

from mmkd.functional.detection.anchors import by_centre, by_overlap, focal, gather, shares
from mmkd.functional.detection.boxes import generalised_iou
from mmkd.students.detectors.base import Goal, Maps
from mmkd.students.detectors.dense import Dense, Said, log_odds
from mmkd.students.detectors.places import Anchors
from mmkd.types import ConfigError


class Pyramid(nn.Module):
    """A timm backbone under a feature pyramid (Lin et al. 2017).

    Args:
        backbone: name of a timm model that gives feature maps.
        channels: of every level of the pyramid.
        strides: of the levels that are kept, in pixels; the backbone must have them.
    """

    def __init__(self, backbone: str, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        import timm

        if not timm.is_model(backbone):
            raise ConfigError(f"timm has no model '{backbone}'; timm.list_models() lists them")
        whole: Any = timm.create_model(backbone, pretrained=False, features_only=True)
        has = whole.feature_info.reduction()
        if missing := [s for s in strides if s not in has]:
            raise ConfigError(
                f"'{backbone}' has feature maps of strides {', '.join(map(str, has))}, none of {missing[0]};"
                " change the detector's strides"
            )
        at = [has.index(s) for s in strides]
        body: Any = timm.create_model(backbone, pretrained=False, features_only=True, out_indices=at)
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), channels)
        self.body: nn.Module = body
        self.out_channels = channels

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """One feature map a level."""
        features = OrderedDict((str(i), f) for i, f in enumerate(self.body(x)))
        maps: dict[str, Tensor] = self.fpn(features)
        return maps


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(8, channels), channels)


class Fcos(Dense):
    """FCOS (Tian et al. 2022): every place near the centre of a box finds it, without anchors.

    Args:
        num_classes: without the background.
        backbone: name of a timm model.
        channels: of the pyramid and of the head.
        convs: convolutions of each of the head's two towers.
        strides: of the pyramid's levels.
        detections: slots of the answer.
        nms: overlap above which the less sure of two boxes of a class is dropped.
        least: score below which nothing is answered.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "mobilenetv3_small_050",
        channels: int = 32,
        convs: int = 2,
        strides: tuple[int, ...] = (8, 16, 32),
        detections: int = 50,
        nms: float = 0.6,
        least: float = 0.05,
    ) -> None:
        pyramid = Pyramid(backbone, channels, strides)
        head = FCOSHead(32, 1, num_classes, 0)  # of 32 channels, for its own norms allow no other
        head.classification_head = FCOSClassificationHead(channels, 1, num_classes, convs, norm_layer=_norm)
        head.regression_head = FCOSRegressionHead(channels, 1, convs, norm_layer=_norm)
        generator = Anchors(strides, tuple((s,) for s in strides), ((1.0,),) * len(strides))
        model = FCOS(pyramid, num_classes, anchor_generator=generator, head=head)
        super().__init__(model, num_classes, detections=detections, nms=nms, least=least)

    def loss(self, outputs: Said, goal: Goal) -> Float[Tensor, ""]:
        """Focal loss of classes, GIoU of boxes and cross entropy of centredness, over the boxes' weights."""
        model: Any = self.model
        head, anchors = outputs.head, outputs.anchors
        stride = anchors[:, 2] - anchors[:, 0]
        least, most = 4 * stride, 8 * stride
        least = torch.where(torch.arange(len(stride), device=stride.device) < outputs.levels[0], 0.0, least)
        last = torch.arange(len(stride), device=stride.device) >= len(stride) - outputs.levels[-1]
        most = torch.where(last, torch.inf, most)
        assigned = by_centre(
            anchors, least, most, goal.boxes, goal.labels, goal.weight, radius=model.center_sampling_radius
        )
        share = shares(assigned, anchors, goal.boxes, goal.labels, goal.weight)
        total = share.positive.sum().clamp(min=1)
        right = _one_hot(goal, assigned.slot, assigned.positive, self.num_classes)
        counts = share.positive + share.negative
        classes = (focal(head["cls_logits"], right) * counts[..., None]).sum()
        boxes = gather(goal.boxes, assigned.slot)
        # Where nothing is to be found, any box with sides will do.
        boxes = torch.where(assigned.positive[..., None], boxes, anchors)
        told = model.box_coder.decode(head["bbox_regression"], anchors.expand(boxes.shape))
        away = (1 - generalised_iou(told, boxes)) * share.positive
        sides = model.box_coder.encode(anchors.expand(boxes.shape), boxes).clamp(min=1e-6)
        pairs = sides[..., [0, 2]], sides[..., [1, 3]]
        centred = torch.stack([p.amin(-1) / p.amax(-1) for p in pairs]).prod(0).sqrt()
        off = F.binary_cross_entropy_with_logits(head["bbox_ctrness"][..., 0], centred, reduction="none")
        return (classes + away.sum() + (off * share.positive).sum()) / total

    def maps(self, outputs: Said) -> Maps:
        """The score is the geometric mean of class probability and centredness."""
        model: Any = self.model
        head = outputs.head
        log_p = (F.logsigmoid(head["cls_logits"]) + F.logsigmoid(head["bbox_ctrness"])) / 2
        regression = head["bbox_regression"]
        anchors = outputs.anchors.expand(regression.shape)
        return Maps(log_odds(log_p), model.box_coder.decode(regression, anchors))


class Retina(Dense):
    """RetinaNet (Lin et al. 2017): focal loss over anchors.

    Args:
        num_classes: without the background.
        backbone: name of a timm model.
        channels: of the pyramid and of the head.
        strides: of the pyramid's levels; anchors are squares of four strides, in three sizes and shapes.
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
        strides: tuple[int, ...] = (8, 16, 32),
        detections: int = 50,
        nms: float = 0.5,
        least: float = 0.05,
    ) -> None:
        sizes = tuple(tuple(int(3 * s * 2 ** (i / 3)) for i in range(3)) for s in strides)
        generator = Anchors(strides, sizes, ((0.5, 1.0, 2.0),) * len(strides))
        head = RetinaNetHead(channels, 9, num_classes, norm_layer=partial(_norm))
        model = RetinaNet(
            Pyramid(backbone, channels, strides), num_classes, anchor_generator=generator, head=head
        )
        super().__init__(model, num_classes, detections=detections, nms=nms, least=least)

    def loss(self, outputs: Said, goal: Goal) -> Float[Tensor, ""]:
        """Focal loss of classes and L1 of box offsets, over each frame's weights; mean over frames."""
        model: Any = self.model
        head, anchors = outputs.head, outputs.anchors
        assigned = by_overlap(anchors, goal.boxes, goal.labels, high=0.5, low=0.4, claims=False)
        share = shares(assigned, anchors, goal.boxes, goal.labels, goal.weight)
        total = share.positive.sum(1).clamp(min=1)
        right = _one_hot(goal, assigned.slot, assigned.positive, self.num_classes)
        counts = share.positive + share.negative
        classes = (focal(head["cls_logits"], right) * counts[..., None]).sum((1, 2))
        offsets = encoded(model.box_coder, goal.boxes, assigned.slot, assigned.positive, anchors)
        away = ((head["bbox_regression"] - offsets).abs().sum(-1) * share.positive).sum(1)
        return ((classes + away) / total).mean()

    def maps(self, outputs: Said) -> Maps:
        """Sigmoid scores."""
        return Maps(outputs.head["cls_logits"], decoded(self.model, outputs))


def _one_hot(goal: Goal, slot: Tensor, positive: Tensor, classes: int) -> Tensor:
    labels = goal.labels.gather(1, slot).clamp(min=0)
    return F.one_hot(labels, classes).to(goal.boxes.dtype) * positive[..., None]


def encoded(coder: Any, boxes: Tensor, slot: Tensor, positive: Tensor, anchors: Tensor) -> Tensor:
    """What the head is to say of the boxes of positive places, ``[batch, places, 4]``."""
    wanted = torch.where(positive[..., None], gather(boxes, slot), anchors)
    flat = anchors.expand(wanted.shape).flatten(0, 1)
    offsets: Tensor = coder.encode_single(wanted.flatten(0, 1), flat)
    return offsets.view(wanted.shape)


def decoded(model: Any, outputs: Said) -> Tensor:
    """Boxes that the head speaks of, ``[batch, places, 4]``."""
    said = outputs.head["bbox_regression"]
    flat = outputs.anchors.expand(said.shape).flatten(0, 1)
    boxes: Tensor = model.box_coder.decode_single(said.flatten(0, 1), flat)
    return boxes.view(said.shape)
