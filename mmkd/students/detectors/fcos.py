"""FCOS: torchvision's head on a feature pyramid of any width, with a loss on weighted boxes."""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS, FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList

from mmkd import bounds
from mmkd.bounds import Size, SizeOrZero, bounded
from mmkd.functional.detection.anchors import Assigned, Share, by_centre, focal, gather, shares
from mmkd.functional.detection.boxes import generalised_iou
from mmkd.students.detectors.anchors import Anchors
from mmkd.students.detectors.base import BoxTargets, Detections, Detector, Maps
from mmkd.students.detectors.pyramid import Pyramid
from mmkd.students.detectors.slots import in_slots
from mmkd.students.detectors.suppression import kept

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's pixels, channel by channel, which timm's backbones expect to be subtracted."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's pixels, by which timm's backbones expect them to be divided."""
CANDIDATES = 1000
"""How many boxes of a frame, those of the highest scores, go through non-maximum suppression."""


class Outputs(NamedTuple):
    """The head's outputs on a batch of frames."""

    head: dict[str, Float[Tensor, "batch places _"]]  # "cls_logits", "bbox_regression" and "bbox_ctrness"
    anchors: Float[Tensor, "places 4"]
    levels: list[int]  # number of places of each feature map
    size: tuple[int, int]  # height and width of the frames


@bounded
class Fcos(Detector):
    """FCOS (Tian et al. 2022): every place near the centre of a box predicts that box, without anchor boxes.

    Frames are neither resized nor padded, unlike in torchvision: those of a camera have one size.

    Args:
        num_classes: number of classes, without the background.
        backbone: name of a timm model.
        channels: of the pyramid and of the head.
        convs: convolutions of each of the head's two towers.
        strides: of the pyramid's levels, in pixels.
        detections: slots of a frame's detections.
        nms: IoU above which the less sure of two boxes of a class is dropped.
        least: detections of a lower score are dropped.
    """

    def __init__(
        self,
        num_classes: Size,
        *,
        backbone: str = "mobilenetv3_small_050",
        channels: Size = 32,
        convs: SizeOrZero = 2,
        strides: tuple[Size, ...] = (8, 16, 32),
        detections: Size = 50,
        nms: bounds.Share = 0.6,
        least: bounds.Share = 0.05,
    ) -> None:
        super().__init__()
        pyramid = Pyramid(backbone, channels, strides)
        head = FCOSHead(32, 1, num_classes, 0)  # 32 channels suit torchvision's norms
        head.classification_head = FCOSClassificationHead(channels, 1, num_classes, convs, norm_layer=_norm)
        head.regression_head = FCOSRegressionHead(channels, 1, convs, norm_layer=_norm)
        self.model: Any = FCOS(pyramid, num_classes, anchor_generator=Anchors(strides), head=head)
        self.num_classes = num_classes
        self.slots, self.nms, self.least = detections, nms, least
        self._maps_of: dict[tuple[int, int], list[tuple[int, int]]] = {}  # sizes of maps by that of frames

    def outputs(self, x: Float[Tensor, "batch 3 height width"]) -> Outputs:
        """The head's outputs at every place, and the anchors."""
        height, width = x.shape[-2:]
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        x = (x - mean) / std
        features = list(self.model.backbone(x).values())
        return self._placed(self.model.head(features), features, (height, width))

    def _placed(self, head: dict[str, Tensor], features: list[Tensor], size: tuple[int, int]) -> Outputs:
        """Outputs of the head at the places of feature maps."""
        # All frames have the same anchors.
        maps = [f[:1] for f in features]
        anchors = self.model.anchor_generator(ImageList(maps[0], [size]), maps)[0]
        return Outputs(head, anchors, [f.shape[-2] * f.shape[-1] for f in features], size)

    def loss(self, outputs: Outputs, targets: BoxTargets) -> Float[Tensor, ""]:
        """Focal loss of classes, GIoU of boxes and cross entropy of centredness, over the boxes' weights."""
        head, anchors, coder = outputs.head, outputs.anchors, self.model.box_coder
        assigned, share = self._shares(outputs, targets)
        total = share.positive.sum().clamp(min=1)
        labels = targets.labels.gather(1, assigned.slot).clamp(min=0)
        right = F.one_hot(labels, self.num_classes).to(targets.boxes.dtype) * assigned.positive[..., None]
        counts = share.positive + share.negative
        classes = (focal(head["cls_logits"], right) * counts[..., None]).sum()
        boxes = gather(targets.boxes, assigned.slot)
        # Where there is no box to predict, any box with an area keeps the logarithms below finite.
        boxes = torch.where(assigned.positive[..., None], boxes, anchors)
        predicted = coder.decode(head["bbox_regression"], anchors.expand(boxes.shape))
        away = (1 - generalised_iou(predicted, boxes)) * share.positive
        sides = coder.encode(anchors.expand(boxes.shape), boxes).clamp(min=1e-6)
        pairs = sides[..., [0, 2]], sides[..., [1, 3]]
        centred = torch.stack([p.amin(-1) / p.amax(-1) for p in pairs]).prod(0).sqrt()
        off = F.binary_cross_entropy_with_logits(head["bbox_ctrness"][..., 0], centred, reduction="none")
        return (classes + away.sum() + (off * share.positive).sum()) / total

    def terms(self, x: Float[Tensor, "batch 3 height width"], targets: BoxTargets) -> Float[Tensor, ""]:
        """Weights of the places that are to predict a box."""
        size = (x.shape[-2], x.shape[-1])
        if size not in self._maps_of:
            self._maps_of[size] = _sizes(self.model.backbone, x[:1])
        like = [torch.empty(1, 1, *sides, dtype=x.dtype, device=x.device) for sides in self._maps_of[size]]
        return self._shares(self._placed({}, like, size), targets)[1].positive.sum()

    def _shares(self, outputs: Outputs, targets: BoxTargets) -> tuple[Assigned, Share]:
        """Which place predicts which box, and what it weighs."""
        radius, anchors = self.model.center_sampling_radius, outputs.anchors
        assigned = by_centre(anchors, *_ranges(outputs), *targets, radius=radius)
        return assigned, shares(assigned, anchors, *targets)

    def maps(self, outputs: Outputs) -> Maps:
        """Boxes, and log-odds of scores: the geometric mean of class probability and centredness."""
        head = outputs.head
        log_p = (F.logsigmoid(head["cls_logits"]) + F.logsigmoid(head["bbox_ctrness"])) / 2
        log_p = log_p.clamp(max=-1e-6)  # the log-odds of certainty are infinite
        regression = head["bbox_regression"]
        boxes = self.model.box_coder.decode(regression, outputs.anchors.expand(regression.shape))
        return Maps(log_p - torch.log(-torch.expm1(log_p)), boxes)

    @torch.no_grad()
    def detections(self, outputs: Outputs) -> Detections:
        """The boxes that non-maximum suppression keeps, cut off at the frame's border."""
        logits, boxes = self.maps(outputs)
        scores, place = logits.sigmoid().flatten(1).topk(min(CANDIDATES, logits[0].numel()), 1)
        labels = place % self.num_classes
        height, width = outputs.size
        border = boxes.new_tensor([width, height, width, height])
        place = (place // self.num_classes)[..., None].expand(*place.shape, 4)
        boxes = boxes.gather(1, place).clamp(min=0).minimum(border)
        scores = scores * kept(boxes, scores, labels, self.nms)
        return in_slots(boxes, scores * (scores >= self.least), labels, self.slots)


@torch.no_grad()
def _sizes(backbone: nn.Module, frame: Tensor) -> list[tuple[int, int]]:
    """Height and width of each feature map of a frame; statistics of normalisation stay as they are."""
    modes = {module: module.training for module in backbone.modules()}
    maps = backbone.eval()(frame).values()
    for module, training in modes.items():
        module.training = training
    return [(f.shape[-2], f.shape[-1]) for f in maps]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(8, channels), channels)


def _ranges(outputs: Outputs) -> tuple[Float[Tensor, " places"], Float[Tensor, " places"]]:
    """Least and greatest distance from each place to the farthest side of its box: four and eight strides.

    The first level has no lower bound and the last one no upper bound.
    """
    stride = outputs.anchors[:, 2] - outputs.anchors[:, 0]
    place = torch.arange(len(stride), device=stride.device)
    least = torch.where(place < outputs.levels[0], 0.0, 4 * stride)
    most = torch.where(place >= len(stride) - outputs.levels[-1], torch.inf, 8 * stride)
    return least, most
