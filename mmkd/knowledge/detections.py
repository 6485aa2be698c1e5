"""Detection distillation: peers say which boxes they detect, or what they predict at every place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from mmkd.bounds import BelowOne, Bound, SomeShare, bounded
from mmkd.encoding.statements import EightBits
from mmkd.functional.detection.boxes import EMPTY, fuse
from mmkd.knowledge.base import Heard, Statement, Statements
from mmkd.types import ConfigError, Detections, PeerName, Predictions, Target


@bounded
class PseudoLabels(Statements):
    """Statements that a student learns with a loss of its own, as it learns labels (``Teachable``).

    The total loss is ``alpha * private + (1 - alpha) * distillation``. Peers speak in evaluation mode.

    Args:
        alpha: weight of the private loss; 0 learns from others alone.
        include_self: whether what a peer says itself is part of what it hears.
        samples: as of ``Statements``.
        kwargs: the other arguments of ``Statements``.
    """

    reads: ClassVar[type[Predictions]] = Detections

    def __init__(
        self,
        *,
        alpha: BelowOne = 0.5,
        include_self: bool = True,
        samples: Literal["batch", "all"] = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(samples=samples, speak=kwargs.pop("speak", "eval"), **kwargs)
        if self.speaks_in == "train":
            raise ConfigError("detections are said in evaluation mode: leave knowledge.speak out")
        if self.confident:
            raise ConfigError(
                "knowledge.confident is about class probabilities; of detections set knowledge.threshold"
            )
        if isinstance(self.wire, EightBits):
            raise ConfigError(
                "knowledge.wire: EightBits has one step for the corners and the score of a box, which makes"
                " nothing of the score; choose Floats"
            )
        if self.pretrain:
            raise ConfigError(
                "knowledge.pretrain reads labels of public samples, and public frames have none"
            )
        self.keep, self.weight, self.include_self = alpha, 1 - alpha, include_self

    @property
    def personal(self) -> bool:
        """Whether listeners who hear the same would make different things of it."""
        return super().personal or not self.include_self


@bounded
class SharedDetections(PseudoLabels):
    """Boxes with scores: soft detections of any architecture, for any other.

    A listener fuses the boxes that it hears (weighted boxes fusion, Solovyev et al. 2021) and learns to
    detect those of a score of at least ``threshold``, each weighed by its score. Boxes of a score between
    ``doubt`` and ``threshold`` are taught neither as objects nor as background. All the rest is background.

    Args:
        threshold: least score of a box that is taught.
        doubt: least score of a box that is not taught as background.
        overlap: boxes of different speakers that overlap by more are one object.
        kwargs: arguments of ``PseudoLabels``.
    """

    kind: ClassVar[str] = "detections"

    def __init__(
        self,
        *,
        threshold: SomeShare = 0.3,
        doubt: SomeShare = 0.15,
        overlap: Annotated[float, Bound(0, 1, above=True, below=True)] = 0.55,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < doubt <= threshold <= 1:
            raise ConfigError(
                f"knowledge.threshold is {threshold} and doubt {doubt}; choose 0 < doubt <= threshold <= 1"
            )
        self.threshold, self.doubt, self.overlap = threshold, doubt, overlap

    def speak(self, predictions: Detections) -> dict[str, Statement]:
        """Corners, score and class of every slot; a slot below ``doubt`` is empty."""
        said = predictions.boxes
        unsure = said[..., 4:5] < self.doubt  # what is not finite is sent, and listeners ignore it
        empty = said.new_tensor([0.0, 0.0, 0.0, 0.0, 0.0, EMPTY])
        return {"boxes": Statement(torch.where(unsure, empty, said).flatten(-2))}

    def listen(
        self,
        heard: Mapping[str, Heard],
        hears: Bool[Tensor, "listeners speakers"],
        own: Bool[Tensor, "listeners speakers"],
    ) -> dict[str, Target]:
        """Corners, weight and class of the boxes to learn, ``[listeners, samples, slots * 6]``."""
        hears = hears | own if self.include_self else hears
        said, spoke = heard["boxes"].values.unflatten(-1, (-1, 6)).transpose(0, 1), heard["boxes"].spoke.T
        spoke = spoke & said.isfinite().all(-1).all(-1)
        boxes, scores, labels = said[..., :4], said[..., 4], said[..., 5].long()
        targets, weights = [], []
        for heard_by in hears:
            speaks = spoke & heard_by
            fused, score, label = fuse(boxes, scores, labels, speaks, self.overlap)
            label = label.masked_fill(score < self.doubt, EMPTY)
            counts = score * (score >= self.threshold)
            targets.append(torch.cat([fused, counts[..., None], label[..., None].to(fused.dtype)], -1))
            weights.append(speaks.any(1).to(fused.dtype))
        return {"boxes": Target(torch.stack(targets).flatten(-2), torch.stack(weights))}

    def check(self, shapes: Mapping[PeerName, Any]) -> None:
        """Refuse students that predict no boxes or different numbers of slots, or that learn maps.

        Raises:
            ConfigError: such students.
        """
        slots = {name: p.boxes.shape[2] for name, p in shapes.items()}
        first, count = next(iter(slots.items()))
        for name, p in shapes.items():
            if p.maps.shape[-1]:
                raise ConfigError(
                    f"the student of '{name}' learns maps and no boxes; leave maps out of its init_args"
                )
            if slots[name] != count:
                raise ConfigError(
                    f"the student of '{first}' says up to {count} boxes, that of '{name}' {slots[name]}: set"
                    " detections alike in their settings"
                )


class DenseDetections(PseudoLabels):
    """Predicted classes and boxes at every place of feature maps, for detectors whose maps have equal sizes.

    Students need ``maps: true``. A listener's target at a place is the mean of the class probabilities that
    it hears, and the mean of the boxes, weighed by them.

    Args:
        kwargs: arguments of ``PseudoLabels``.
    """

    kind: ClassVar[str] = "maps"

    def speak(self, predictions: Detections) -> dict[str, Statement]:
        """Log-odds of each class and corners, place by place."""
        return {"maps": Statement(predictions.maps.flatten(-2))}

    def listen(
        self,
        heard: Mapping[str, Heard],
        hears: Bool[Tensor, "listeners speakers"],
        own: Bool[Tensor, "listeners speakers"],
    ) -> dict[str, Target]:
        """Log-odds and corners of the mean predictions, ``[listeners, samples, places * (classes + 4)]``."""
        hears = hears | own if self.include_self else hears
        values, spoke = heard["maps"]
        targets, weights = [], []
        for heard_by in hears:
            speaks = (spoke & heard_by[:, None]).to(values.dtype)
            said = values.unflatten(-1, (-1, self._width))
            p = said[..., :-4].sigmoid() * speaks[..., None, None]
            surest = p.amax(-1, keepdim=True)
            boxes = (said[..., -4:] * surest).sum(0) / surest.sum(0).clamp(min=1e-6)
            mean = p.sum(0) / speaks.sum(0).clamp(min=1)[:, None, None]
            targets.append(torch.cat([torch.logit(mean, 1e-6), boxes], -1).flatten(-2))
            weights.append(speaks.amax(0))
        return {"maps": Target(torch.stack(targets), torch.stack(weights))}

    _width = 5

    def check(self, shapes: Mapping[PeerName, Any]) -> None:
        """Refuse students without maps, or of different grids.

        Raises:
            ConfigError: such students.
        """
        grids = {name: tuple(p.maps.shape[2:]) for name, p in shapes.items()}
        first, grid = next(iter(grids.items()))
        for name, other in grids.items():
            if not other[1]:
                raise ConfigError(f"the student of '{name}' says no maps; set maps: true in its init_args")
            if other != grid:
                raise ConfigError(
                    f"the maps of '{first}' have {grid[0]} places, those of '{name}' {other[0]}: only"
                    " detectors of one grid teach maps; use SharedDetections"
                )
        self._width = grid[1]
