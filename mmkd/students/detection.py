"""Students that find objects in frames."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from mmkd.functional.detection.anchors import map_distance
from mmkd.functional.detection.boxes import EMPTY, KNOWN, UNLABELLED, fuse
from mmkd.students.base import Teachable, adam
from mmkd.students.detectors import ARCHITECTURES, architecture
from mmkd.students.detectors.base import Detector, Goal
from mmkd.students.settings import settings_of
from mmkd.types import Batch, ConfigError, Detections, Target, Views

PIECE = 16
"""Frames in one forward where no gradient is wanted."""
OVERLAP = 0.55
"""IoU above which what it finds at two sizes of a frame is one object."""


class DetectionStudent(Teachable):
    """A detector of any architecture and width, which learns from boxes.

    It predicts detections ``[batch, slots, 6]``: corners in pixels, score and class, the surest first; a slot
    that holds none has score 0 and class -1. Frames are ``[batch, 3, height, width]``, bytes or 0 to 1.

    Args:
        num_classes: classes, the same for every peer of a cohort.
        detector: the architecture.
        settings: what it takes, such as ``{"backbone": "mobilenetv3_small_050", "channels": 32}``.
        weights: local file to begin with: a checkpoint of such a student, or the state of its network.
        classes: for a student that answers and never trains: from its own classes to those of the cohort;
            what it finds of others is dropped.
        general: how many classes it has itself, where ``classes`` is given.
        maps: whether it teaches what it says at every place, too (see ``DenseDetections``).
        looks: sizes of a frame, relative to its own, at which it looks for its answer; what it finds at
            several is fused (``mmkd.functional.detection.boxes.fuse``). It learns at the frame's own size.
        flip: mirror frames at random while it trains.
        jitter: greatest relative change of a training frame's brightness and contrast.
        optimizer: makes the peer's own optimizer from its parameters.
        scheduler: makes its learning-rate schedule, which counts local steps.

    Raises:
        ConfigError: the detector does not take such settings, the weights do not fit or are not there, or
            looks are none, or several of maps.
    """

    modalities = ("image",)
    gives = Detections

    def __init__(
        self,
        num_classes: int,
        *,
        detector: Literal[
            "fcos", "retinanet", "ssdlite", "faster_rcnn", "rt_detr", "d_fine", "yolos", "torchvision"
        ] = "fcos",
        settings: dict[str, Any] | None = None,
        weights: str | None = None,
        classes: dict[int, int] | None = None,
        general: int | None = None,
        maps: bool = False,
        looks: Sequence[float] = (1.0,),
        flip: bool = False,
        jitter: float = 0.0,
        optimizer: OptimizerCallable = adam,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        kept = settings_of(locals())
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        # A checkpoint has weights of its own, and is to load where the file is not.
        self.save_hyperparameters({**kept, "weights": None}, logger=False)
        if (classes is None) != (general is None):
            raise ConfigError("DetectionStudent: classes and general go together; give both or neither")
        if not looks or min(looks) <= 0:
            raise ConfigError(f"DetectionStudent: looks are {list(looks)}; name sizes, such as [1.0, 1.5]")
        if maps and list(looks) != [1.0]:
            raise ConfigError("DetectionStudent: maps are of one size of a frame: leave looks out")
        self.num_classes, self.teaches_maps, self.looks = num_classes, maps, list(looks)
        self.flip, self.jitter = flip, jitter
        self.detector = build(detector, general or num_classes, settings or {})
        self._classes: Tensor | None = None
        if classes is not None and general is not None:
            self._classes = torch.tensor([classes.get(i, EMPTY) for i in range(general)])
        if weights is not None:
            load(self, weights)

    def predict(self, x: Float[Tensor, "batch 3 height width"]) -> Detections:
        """Detections, and its maps if it teaches those; some frames at a time where no gradient is wanted."""
        size = len(x) if torch.is_grad_enabled() else PIECE
        parts = [self._predict(as_floats(x[i : i + size])) for i in range(0, len(x), size)]
        said, maps = (torch.cat(part) for part in zip(*parts, strict=True))
        return Detections(said, maps)

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.looks == [1.0]:
            return self._look(x)
        said = torch.stack([self._look_at(x, size) for size in self.looks], 1)
        there = torch.ones(said.shape[:2], dtype=torch.bool, device=said.device)
        boxes, scores, labels = fuse(said[..., :4], said[..., 4], said[..., 5].long(), there, OVERLAP)
        found = torch.cat([boxes, scores[..., None], labels[..., None].to(boxes.dtype)], -1)
        return found, found.new_empty(len(found), 0)

    def _look_at(self, x: Tensor, size: float) -> Tensor:
        """Detections, in pixels of the frames, of what it sees when they are ``size`` times as large."""
        height, width = (max(1, round(side * size)) for side in x.shape[-2:])
        resized = F.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=size < 1)
        said, _ = self._look(resized)
        times = said.new_tensor([x.shape[-1] / width, x.shape[-2] / height] * 2)
        return torch.cat([said[..., :4] * times, said[..., 4:]], -1)

    def _look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.detector.outputs(x)
        boxes, scores, labels = self.detector.found(outputs)
        if self._classes is not None:
            from mmkd.students.detectors.dense import slots

            labels = torch.where(labels >= 0, self._classes.to(labels.device)[labels.clamp(min=0)], EMPTY)
            scores = scores * (labels >= 0)
            boxes, scores, labels = slots(boxes, scores, labels, scores.shape[1], nms=None, least=0.0)
        said = torch.cat([boxes, scores[..., None], labels[..., None].to(boxes.dtype)], -1)
        if not self.teaches_maps:
            return said, said.new_empty(len(said), 1, 0)
        return said, torch.cat(self.detector.maps(outputs), -1)  # [batch, places, classes + 4]

    def private_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Its detector's loss on labelled boxes.

        Raises:
            ConfigError: its classes are not those of the cohort.
        """
        labels, _ = self._losses(batch.x, batch.y, None)
        assert labels is not None
        return labels

    def taught_loss(self, x: Views, target: Target) -> Float[Tensor, ""]:
        """Its detector's loss on the boxes, or the distance from the maps, that it is taught."""
        _, taught = self._losses(x, None, target)
        assert taught is not None
        return taught

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""] | None, Float[Tensor, ""]]:
        """Both losses of the same frames, mirrored and lit alike, which the network reads once."""
        labels, taught = self._losses(batch.x, batch.y, batch.target)
        assert taught is not None
        return labels, taught

    def _losses(
        self, x: Tensor, y: Tensor | None, target: Target | None
    ) -> tuple[Tensor | None, Tensor | None]:
        if self._classes is not None:
            raise ConfigError(
                "a DetectionStudent with classes of its own answers and does not train; leave classes out"
            )
        x = as_floats(x)
        if self.training:
            x, y, target = self._changed(x, y, target)
        outputs = self.detector.outputs(x)
        labels = None if y is None else self.detector.loss(outputs, goal_of(y))
        if target is None:
            return labels, None
        if self.teaches_maps:
            logits, boxes = self.detector.maps(outputs)
            values = target.values.unflatten(-1, (logits.shape[1], logits.shape[2] + 4))
            return labels, map_distance(logits, boxes, values[..., :-4], values[..., -4:], target.weight)
        values = target.values.unflatten(-1, (-1, 6))
        return labels, self.detector.loss(outputs, goal_told(values, target.weight))

    def _changed(
        self, x: Tensor, y: Tensor | None, target: Target | None
    ) -> tuple[Tensor, Tensor | None, Target | None]:
        """Frames mirrored and lit differently, and boxes with them."""
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
        """As in validation."""
        self.log("test/loss", self.private_loss(batch), batch_size=len(batch.ids))


def build(name: str, num_classes: int, settings: Mapping[str, Any]) -> Detector:
    """A detector by the name of its architecture.

    Raises:
        ConfigError: there is none, or it does not take these settings.
    """
    if name not in ARCHITECTURES:
        raise ConfigError(f"there is no detector '{name}'; there are {', '.join(ARCHITECTURES)}")
    make = architecture(name)
    takes = list(inspect.signature(make).parameters)[1:]
    if odd := sorted(set(settings) - set(takes)):
        raise ConfigError(f"detector '{name}' has no setting '{odd[0]}'; it takes {', '.join(takes)}")
    # A YAML list stands for a tuple.
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    detector: Detector = make(num_classes, **given)
    return detector


def load(student: DetectionStudent, path: str) -> None:
    """Take up weights from a local file.

    Raises:
        ConfigError: it is not there, or its weights are those of another network.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"DetectionStudent: no file {path}; train such a student first, or leave weights out"
        )
    saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    state: Mapping[str, Tensor] = saved.get("state_dict", saved)
    modules: list[Any] = [student, student.detector, getattr(student.detector, "model", student.detector)]
    target = max(modules, key=lambda module: len(module.state_dict().keys() & state.keys()))
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"DetectionStudent: the weights in {path} are of another network: {line}"
        ) from error


def as_floats(x: Tensor) -> Float[Tensor, "batch 3 height width"]:
    """Frames of 0 to 1."""
    return x if x.is_floating_point() else x.float() / 255


def goal_of(y: Float[Tensor, "batch slots 5"]) -> Goal:
    """What labels ask for; of an object without one, nothing."""
    unlabelled = y[..., 4] == UNLABELLED
    labels = y[..., 4].long().masked_fill(unlabelled, 0)  # of weight 0, any class will do
    return Goal(y[..., :4], labels, (~unlabelled).to(y.dtype))


def goal_told(values: Float[Tensor, "batch slots 6"], weight: Float[Tensor, " batch"]) -> Goal:
    """What others ask for; of a sample about which they said nothing, nothing is known anywhere."""
    boxes, counts, labels = values[..., :4], values[..., 4], values[..., 5].long()
    silent = (weight == 0)[:, None]
    first = torch.arange(labels.shape[1], device=labels.device) == 0
    labels = torch.where(silent, torch.where(first, KNOWN, EMPTY), labels)
    nowhere = boxes.new_tensor([-2.0, -2.0, -2.0, -2.0])
    boxes = torch.where(silent[..., None], nowhere, boxes)
    return Goal(boxes, labels, counts * weight[:, None])


def mirrored(boxes: Tensor, width: int) -> Tensor:
    """Boxes ``[batch, slots, 4 and more]`` of mirrored frames."""
    return torch.cat([width - boxes[..., 2:3], boxes[..., 1:2], width - boxes[..., 0:1], boxes[..., 3:]], -1)
