"""Shared-logit distillation: peers agree on class probabilities of public samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.bounds import BelowOne, Positive, bounded
from mmkd.knowledge.base import Heard, Knowledge, Statement
from mmkd.knowledge.consensus import Consensus, MeanProbability
from mmkd.knowledge.losses import DistillationLoss, KullbackLeibler
from mmkd.types import Classes, ConfigError, Target


@bounded
class SharedLogits(Knowledge):
    """Peers say the logits of their main heads; listeners distil a consensus of them.

    The total loss is ``alpha * private + (1 - alpha) * distillation``; teachers get no gradient.

    Args:
        consensus: how the logits heard become one distribution a sample.
        loss: how far a head is from the consensus.
        temperature: T, of teachers and students alike.
        into: ``main`` teaches the main head, ``auxiliary`` every auxiliary head (their losses add up),
            so that the main head learns from private samples alone.
        include_self: whether a peer's own logits are part of what it hears.
        alpha: weight of the private loss.
        kwargs: arguments of ``Statements``.
    """

    kind: ClassVar[str] = "logits"

    def __init__(
        self,
        *,
        consensus: Consensus | None = None,
        loss: DistillationLoss | None = None,
        temperature: Positive = 1.0,
        into: Literal["main", "auxiliary"] = "main",
        include_self: bool = True,
        alpha: BelowOne = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.keep, self.weight = alpha, 1 - alpha
        self.consensus = consensus or MeanProbability()
        self.distance = loss or KullbackLeibler()
        self.temperature, self.into, self.include_self = temperature, into, include_self

    @property
    def personal(self) -> bool:
        """Whether listeners who hear the same would make different things of it."""
        return super().personal or not self.include_self

    def speak(self, predictions: Classes) -> dict[str, Statement]:
        """The logits of the main heads."""
        return {"main": Statement(predictions.logits, logits=True)}

    def listen(
        self,
        heard: Mapping[str, Heard],
        hears: Bool[Tensor, "listeners speakers"],
        own: Bool[Tensor, "listeners speakers"],
    ) -> dict[str, Target]:
        """The consensus of the logits that each listener hears."""
        hears = hears | own if self.include_self else hears
        target = self.consensus.combine(heard["main"], hears, self.temperature)
        return {"main": target._replace(probabilities=True)}

    def loss(self, predictions: Classes, targets: Mapping[str, Target]) -> Float[Tensor, " peers"]:
        """Distance of the taught heads from the consensus.

        Raises:
            ConfigError: auxiliary heads are to be taught, and there are none.
        """
        target, weight, _ = targets["main"]
        if self.into == "main":
            return self.distance(predictions.logits, target, self.temperature, weight)
        heads = predictions.auxiliary.unbind(1)
        if not heads:
            raise ConfigError("knowledge.into is 'auxiliary', but a student has no auxiliary heads")
        losses = [self.distance(head, target, self.temperature, weight) for head in heads]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total
