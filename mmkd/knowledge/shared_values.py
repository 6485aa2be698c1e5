"""Distillation of what is no class: peers agree on the mean of values, or of the log-odds of tags."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.bounds import BelowOne, bounded
from mmkd.functional.classification import softmax
from mmkd.functional.consensus import heard_mean
from mmkd.functional.distillation import kd, prototype
from mmkd.knowledge.base import Heard, Knowledge, Statement
from mmkd.types import ConfigError, Predictions, Tags, Target, Values


@bounded
class MeanStatement(Knowledge):
    """Peers say what they predict of a sample, and listeners learn the mean of what they hear.

    The total loss is ``alpha * private + (1 - alpha) * distillation``; teachers get no gradient.

    Args:
        include_self: whether a peer's own prediction is part of what it hears.
        alpha: weight of the private loss.
        kwargs: arguments of ``Statements``, without those about classes.

    Raises:
        ConfigError: a setting about classes was given.
    """

    def __init__(self, *, include_self: bool = True, alpha: BelowOne = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.confident or self.pretrain:
            raise ConfigError(
                "knowledge.confident and knowledge.pretrain are about classes, of which"
                f" {type(self).__name__} says nothing; remove them"
            )
        self.keep, self.weight, self.include_self = alpha, 1 - alpha, include_self

    @property
    def personal(self) -> bool:
        """Whether listeners who hear the same would make different things of it."""
        return super().personal or not self.include_self

    @abstractmethod
    def said(self, predictions: Any) -> Float[Tensor, "peers samples outputs"]:
        """What peers say of samples."""

    @abstractmethod
    def distance(
        self,
        said: Float[Tensor, "peers samples outputs"],
        mean: Float[Tensor, "peers samples outputs"],
        weight: Float[Tensor, "peers samples"],
    ) -> Float[Tensor, " peers"]:
        """How far what a peer says is from the mean that it heard."""

    def speak(self, predictions: Predictions) -> dict[str, Statement]:
        """What a peer predicts of each sample."""
        return {self.kind: Statement(self.said(predictions))}

    def listen(
        self,
        heard: Mapping[str, Heard],
        hears: Bool[Tensor, "listeners speakers"],
        own: Bool[Tensor, "listeners speakers"],
    ) -> dict[str, Target]:
        """The mean of what each listener hears."""
        hears = hears | own if self.include_self else hears
        mean, anybody = heard_mean(heard[self.kind].values, hears, heard[self.kind].spoke)
        return {self.kind: Target(mean, anybody.to(mean.dtype))}

    def loss(self, predictions: Predictions, targets: Mapping[str, Target]) -> Float[Tensor, " peers"]:
        """The distance from the mean, over the samples about which anybody spoke."""
        mean, weight, _ = targets[self.kind]
        return self.distance(self.said(predictions), mean, weight)


class SharedValues(MeanStatement):
    """Regressors learn the mean of the values that they hear, by the mean squared distance from it."""

    kind: ClassVar[str] = "values"
    reads: ClassVar[type[Predictions]] = Values

    def said(self, predictions: Values) -> Float[Tensor, "peers samples values"]:
        """The predicted values."""
        return predictions.values

    def distance(self, said: Tensor, mean: Tensor, weight: Tensor) -> Float[Tensor, " peers"]:
        """Mean squared distance, over values and samples."""
        return prototype(said, mean, seen=weight)


class SharedTags(MeanStatement):
    """Taggers learn the mean of the log-odds that they hear, by the divergence from it.

    The divergence is the mean over tags of KL(p || q), where the mean log-odds say that a tag fits with
    probability p, and the student says q.
    """

    kind: ClassVar[str] = "tags"
    reads: ClassVar[type[Predictions]] = Tags

    def said(self, predictions: Tags) -> Float[Tensor, "peers samples tags"]:
        """The log-odds of each tag."""
        return predictions.logits

    def distance(self, said: Tensor, mean: Tensor, weight: Tensor) -> Float[Tensor, " peers"]:
        """Mean divergence, over tags and samples."""
        seen = weight.repeat_interleave(said.shape[-1], 1)
        return kd(_fits_or_not(said), softmax(_fits_or_not(mean)), temperature=1.0, seen=seen)


def _fits_or_not(
    log_odds: Float[Tensor, "peers samples tags"],
) -> Float[Tensor, "peers samples_times_tags 2"]:
    """Each tag as a choice of two classes, whose logits differ by the log-odds."""
    return torch.stack([log_odds, torch.zeros_like(log_odds)], -1).flatten(1, 2)
