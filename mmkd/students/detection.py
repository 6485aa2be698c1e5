"""Students that detect objects in frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mmkd.bounds import BelowOne, Positive, Size, bounded
from mmkd.functional.detection.anchors import map_distance
from mmkd.functional.detection.boxes import EMPTY, fuse
from mmkd.students.base import Teachable
from mmkd.students.detectors.build import build
from mmkd.students.detectors.slots import in_slots
from mmkd.students.detectors.targets import labelled, mirrored, taught
from mmkd.students.labels import BoxLabels, Labels
from mmkd.students.settings import settings_of
from mmkd.students.weights import load_weights
from mmkd.types import Batch, ConfigError, Detections, Target, Views

Frames: TypeAlias = UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
"""Frames of bytes, or of numbers from 0 to 1."""
PIECE = 16
"""How many frames go through one forward pass where no gradient is needed."""
OVERLAP = 0.55
"""IoU above which detections at two sizes of a frame count as one object."""


@bounded
class DetectionStudent(Teachable):
    """A student that detects objects in frames and learns from boxes.

    It predicts detections ``[batch, slots, 6]``: corners in pixels, score and class, in descending order of
    score; an empty slot has score 0 and class -1. It reads ``Frames``.

    Args:
        num_classes: number of classes, the same for every peer of a cohort.
        detector: the network: ``fcos`` (``mmkd.students.detectors.fcos.Fcos``) of any timm backbone and
            width, or ``torchvision`` (``mmkd.students.detectors.pretrained.Torchvision``), a published one
            that never trains.
        settings: arguments of that class, such as ``{"backbone": "mobilenetv3_small_050", "channels": 32}``.
        weights: path of a local file with initial weights: a checkpoint of such a student, or the state
            dictionary of its network.
        classes: for a student that never trains: from classes of its network to those of the cohort;
            detections of other classes are dropped.
        general: number of classes of its network, where ``classes`` is given.
        maps: whether it also predicts the logits and boxes of every place (see ``DenseDetections``).
        scales: sizes at which a frame is read for predictions, relative to its own; detections at several
            sizes are fused (``mmkd.functional.detection.boxes.fuse``). Training reads frames as they are.
        flip: whether training frames are mirrored at random.
        jitter: greatest relative change of a training frame's brightness and contrast.
        kwargs: arguments of ``Student``.

    Raises:
        ConfigError: the detector has no such setting, the weights are missing or of another network, scales
            are empty or not positive, or several scales are to have maps.
    """

    modalities = ("image",)
    gives = Detections

    def __init__(
        self,
        num_classes: Size,
        *,
        detector: Literal["fcos", "torchvision"] = "fcos",
        settings: dict[str, Any] | None = None,
        weights: str | None = None,
        classes: dict[int, int] | None = None,
        general: Size | None = None,
        maps: bool = False,
        scales: Sequence[Positive] = (1.0,),
        flip: bool = False,
        jitter: BelowOne = 0.0,
        **kwargs: Any,
    ) -> None:
        arguments = settings_of(locals())
        super().__init__(**kwargs)
        # A checkpoint has weights of its own, and must load where the file is missing.
        self.save_hyperparameters({**arguments, "weights": None}, logger=False)
        if (classes is None) != (general is None):
            raise ConfigError("DetectionStudent: classes and general go together; give both or neither")
        if not scales:
            raise ConfigError("DetectionStudent: scales are empty; give some, such as [1.0, 1.5]")
        if maps and list(scales) != [1.0]:
            raise ConfigError("DetectionStudent: maps are of one size of a frame: leave scales out")
        self.num_classes, self.teaches_maps, self.scales = num_classes, maps, list(scales)
        self.flip, self.jitter = flip, jitter
        self.detector = build(detector, general or num_classes, settings or {})
        self._classes: Tensor | None = None
        if classes is not None and general is not None:
            self._classes = torch.tensor([classes.get(i, EMPTY) for i in range(general)])
        if weights is not None:
            network: Any = getattr(self.detector, "model", self.detector)
            load_weights([self, self.detector, network], weights)

    def predict(self, x: Frames) -> Detections:
        """Detections, and maps if it teaches those; some frames at a time where no gradient is wanted."""
        if torch.compiler.is_exporting():  # a graph has no loop over a number of frames that it does not know
            return Detections(*self._predict(as_floats(x, self._precision)))
        size = len(x) if torch.is_grad_enabled() else PIECE
        parts = [self._predict(as_floats(x[i : i + size], self._precision)) for i in range(0, len(x), size)]
        detections, maps = (torch.cat(part) for part in zip(*parts, strict=True))
        return Detections(detections, maps)

    def _predict(
        self, x: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch slots 6"], Float[Tensor, "batch places _"]]:
        """Detections and maps of frames, at all scales."""
        if self.scales == [1.0]:
            return self._detect(x)
        each = torch.stack([self._detect_at(x, scale) for scale in self.scales], 1)
        there = torch.ones(each.shape[:2], dtype=torch.bool, device=each.device)
        boxes, scores, labels = fuse(each[..., :4], each[..., 4], each[..., 5].long(), there, OVERLAP)
        detections = torch.cat([boxes, scores[..., None], labels[..., None].to(boxes.dtype)], -1)
        return detections, detections.new_empty(detections.shape[0], 1, 0)

    def _detect_at(
        self, x: Float[Tensor, "batch 3 height width"], scale: float
    ) -> Float[Tensor, "batch slots 6"]:
        """Detections, in pixels of the frames, in frames that are resized by ``scale``."""
        height, width = (max(1, round(side * scale)) for side in x.shape[-2:])
        resized = F.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=scale < 1)
        detections, _ = self._detect(resized)
        times = detections.new_tensor([x.shape[-1] / width, x.shape[-2] / height] * 2)
        return torch.cat([detections[..., :4] * times, detections[..., 4:]], -1)

    def _detect(
        self, x: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch slots 6"], Float[Tensor, "batch places _"]]:
        """Detections of the cohort's classes and maps of frames, at one scale."""
        outputs = self.detector.outputs(x)
        boxes, scores, labels = self.detector.detections(outputs)
        if self._classes is not None:
            labels = torch.where(labels >= 0, self._classes.to(labels.device)[labels.clamp(min=0)], EMPTY)
            boxes, scores, labels = in_slots(boxes, scores * (labels >= 0), labels, scores.shape[1])
        detections = torch.cat([boxes, scores[..., None], labels[..., None].to(boxes.dtype)], -1)
        if not self.teaches_maps:
            return detections, detections.new_empty(detections.shape[0], 1, 0)
        return detections, torch.cat(self.detector.maps(outputs), -1)  # [batch, places, classes + 4]

    def learns_from(self) -> Labels:
        """Boxes in slots."""
        return BoxLabels(self.num_classes)

    def private_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Loss of the detector on labelled boxes.

        Raises:
            ConfigError: its network has classes of its own.
        """
        labels, _ = self._losses(batch.x, batch.y, None)
        assert labels is not None
        return labels

    def taught_loss(self, x: Views, target: Target) -> Float[Tensor, ""]:
        """Loss of the detector on the boxes, or its distance from the maps, that others teach.

        Raises:
            ConfigError: its network has classes of its own.
        """
        _, lesson = self._losses(x, None, target)
        assert lesson is not None
        return lesson

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""] | None, Float[Tensor, ""]]:
        """Both losses of frames that are augmented alike, and that the network reads once."""
        labels, lesson = self._losses(batch.x, batch.y, batch.target)
        assert lesson is not None
        return labels, lesson

    @property
    def _precision(self) -> torch.dtype:
        """That of the network's weights, in which frames of bytes are read."""
        precision: torch.dtype = next(self.detector.parameters()).dtype
        return precision

    def _losses(
        self, x: Frames, y: Float[Tensor, "batch slots 5"] | None, target: Target | None
    ) -> tuple[Float[Tensor, ""] | None, Float[Tensor, ""] | None]:
        """Losses of the labels and of the target, each if it is there."""
        if self._classes is not None:
            raise ConfigError(
                "a DetectionStudent with classes of its own answers and does not train; leave classes out"
            )
        x = as_floats(x, self._precision)
        if self.training:
            x, y, target = self._augmented(x, y, target)
        outputs = self.detector.outputs(x)
        labels = None if y is None else self.detector.loss(outputs, labelled(y))
        if target is None:
            return labels, None
        if self.teaches_maps:
            logits, boxes = self.detector.maps(outputs)
            values = target.values.unflatten(-1, (logits.shape[1], logits.shape[2] + 4))
            return labels, map_distance(logits, boxes, values[..., :-4], values[..., -4:], target.weight)
        values = target.values.unflatten(-1, (-1, 6))
        return labels, self.detector.loss(outputs, taught(values, target.weight))

    def terms(self, batch: Batch) -> Float[Tensor, ""]:
        """Weights of the places that are to find a labelled box, by which its detector's loss is divided."""
        assert batch.y is not None
        x, y = as_floats(batch.x, self._precision), batch.y
        if self.training:
            x, y, _ = self._augmented(x, y, None)  # type: ignore[assignment]  # labels stay labels
        return self.detector.terms(x, labelled(y))

    def taught_terms(self, x: Views, target: Target) -> Float[Tensor, ""]:
        """The same of what others teach; of maps, how sure they are of a class, added up over places."""
        x = as_floats(x, self._precision)
        if self.training:
            x, _, told = self._augmented(x, None, target)
            assert told is not None
            target = told
        if self.teaches_maps:
            logits = target.values.unflatten(-1, (-1, self.num_classes + 4))[..., :-4]
            sure: Tensor = (logits.sigmoid().amax(-1).sum(1) * target.weight).sum()
            return sure
        return self.detector.terms(x, taught(target.values.unflatten(-1, (-1, 6)), target.weight))

    def _augmented(
        self,
        x: Float[Tensor, "batch 3 height width"],
        y: Float[Tensor, "batch slots 5"] | None,
        target: Target | None,
    ) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch slots 5"] | None, Target | None]:
        """Frames of random brightness and contrast, some of them mirrored, and their boxes."""
        if self.jitter:
            brightness, contrast = (
                1 + self.jitter * (2 * torch.rand(2, len(x), 1, 1, 1, device=x.device) - 1)
            ).unbind(0)
            mean = x.mean((1, 2, 3), keepdim=True)
            x = ((x - mean) * contrast + mean * brightness).clamp(0, 1)
        if self.flip:
            turned = torch.rand(len(x), device=x.device) < 0.5
            x = torch.where(turned[:, None, None, None], x.flip(-1), x)
            if y is not None:
                y = torch.where(turned[:, None, None], mirrored(y, x.shape[-1]), y)
            if target is not None:
                if self.teaches_maps:
                    raise ConfigError("maps of mirrored frames are those of other places: set flip to false")
                values = target.values.unflatten(-1, (-1, 6))
                values = torch.where(turned[:, None, None], mirrored(values, x.shape[-1]), values)
                target = target._replace(values=values.flatten(-2))
        return x, y, target

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss of a student that trains alone; a cohort reports average precision."""
        self.log("val/loss", self.private_loss(batch), batch_size=len(batch.ids), prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss of a student that trains alone."""
        self.log("test/loss", self.private_loss(batch), batch_size=len(batch.ids))


def as_floats(x: Frames, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch 3 height width"]:
    """Frames of 0 to 1; of bytes in the precision ``dtype``."""
    return x if x.is_floating_point() else x.to(dtype) / 255
