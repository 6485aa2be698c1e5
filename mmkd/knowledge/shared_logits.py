"""Shared-logit distillation: peers agree on class probabilities of public samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.functional.consensus import mean_logit, mean_probability, most_confident, sharpen
from mmkd.functional.distillation import kd
from mmkd.knowledge.base import Knowledge, Targets
from mmkd.types import ConfigError, Predictions


class Consensus(ABC):
    """How a listener combines the logits that it has heard into one distribution a sample."""

    @abstractmethod
    def combine(
        self,
        logits: Float[Tensor, "speakers samples classes"],
        hears: Bool[Tensor, "listeners speakers"],
        spoke: Bool[Tensor, "speakers samples"],
        temperature: float,
    ) -> tuple[Float[Tensor, "listeners samples classes"], Bool[Tensor, "listeners samples"]]:
        """Probabilities, and whether anybody spoke."""


class MeanProbability(Consensus):
    """The mean of the probabilities, raised to a power and normalised again.

    Args:
        sharpen: the power; 1 leaves the mean as it is, 2 squares it.
    """

    def __init__(self, sharpen: float = 1.0) -> None:
        if sharpen <= 0:
            raise ConfigError(f"consensus.sharpen is {sharpen}; it must be positive")
        self.sharpen = sharpen

    def combine(
        self,
        logits: Float[Tensor, "speakers samples classes"],
        hears: Bool[Tensor, "listeners speakers"],
        spoke: Bool[Tensor, "speakers samples"],
        temperature: float,
    ) -> tuple[Float[Tensor, "listeners samples classes"], Bool[Tensor, "listeners samples"]]:
        """Probabilities, and whether anybody spoke."""
        mean, told = mean_probability(logits, hears, spoke, temperature=temperature)
        return (mean if self.sharpen == 1 else sharpen(mean, self.sharpen)), told


class MeanLogit(Consensus):
    """The softmax of the mean logits, a normalised geometric mean of the probabilities."""

    def combine(
        self,
        logits: Float[Tensor, "speakers samples classes"],
        hears: Bool[Tensor, "listeners speakers"],
        spoke: Bool[Tensor, "speakers samples"],
        temperature: float,
    ) -> tuple[Float[Tensor, "listeners samples classes"], Bool[Tensor, "listeners samples"]]:
        """Probabilities, and whether anybody spoke."""
        return mean_logit(logits, hears, spoke, temperature=temperature)


class MostConfident(Consensus):
    """Sample by sample the teacher with the greatest class probability."""

    def combine(
        self,
        logits: Float[Tensor, "speakers samples classes"],
        hears: Bool[Tensor, "listeners speakers"],
        spoke: Bool[Tensor, "speakers samples"],
        temperature: float,
    ) -> tuple[Float[Tensor, "listeners samples classes"], Bool[Tensor, "listeners samples"]]:
        """Probabilities, and whether anybody spoke."""
        return most_confident(logits, hears, spoke, temperature=temperature)


class SharedLogits(Knowledge):
    """Peers say the logits of their main heads; listeners distil a consensus of them.

    The loss is ``T^2 KL(consensus || student)`` (Hinton et al. 2015), teachers without gradient.

    Args:
        consensus: how the logits heard become one distribution a sample.
        temperature: T, of teachers and students alike.
        into: ``main`` teaches the main head, ``auxiliary`` every auxiliary head (their losses add up),
            so that the main head learns from private samples alone.
        include_self: whether a peer's own logits are part of what it hears.
        alpha: weight of the private loss.
        samples: the public ``batch`` of the step, or ``all`` public samples for steps to come.
        speak: training forward reused, or one of its own in evaluation mode.
        precision: of the numbers on the wire.
    """

    kind = "logits"

    def __init__(
        self,
        *,
        consensus: Consensus | None = None,
        temperature: float = 1.0,
        into: Literal["main", "auxiliary"] = "main",
        include_self: bool = True,
        alpha: float = 0.5,
        samples: Literal["batch", "all"] = "batch",
        speak: Literal["train", "eval"] = "train",
        precision: Literal["float32", "float16"] = "float32",
    ) -> None:
        super().__init__(alpha=alpha, samples=samples, speak=speak, precision=precision)
        if temperature <= 0:
            raise ConfigError(f"knowledge.temperature is {temperature}; it must be positive")
        self.consensus = consensus or MeanProbability()
        self.temperature, self.into, self.include_self = temperature, into, include_self

    def speak(self, predictions: Predictions) -> Float[Tensor, "peers samples classes"]:
        """The logits of the main heads."""
        return predictions.logits

    def listen(
        self,
        heard: Float[Tensor, "speakers samples classes"],
        hears: Bool[Tensor, "listeners speakers"],
        spoke: Bool[Tensor, "speakers samples"],
    ) -> Targets:
        """The consensus, as probabilities."""
        return Targets(*self.consensus.combine(heard, hears, spoke, self.temperature))

    def loss(
        self,
        predictions: Predictions,
        values: Float[Tensor, "peers samples classes"],
        seen: Bool[Tensor, "peers samples"],
    ) -> Float[Tensor, " peers"]:
        """Distance of the taught heads from the consensus.

        Raises:
            ConfigError: auxiliary heads are to be taught, and there are none.
        """
        if self.into == "main":
            return kd(predictions.logits, values, temperature=self.temperature, seen=seen)
        heads = predictions.auxiliary.unbind(1)
        if not heads:
            raise ConfigError("knowledge.into is 'auxiliary', but a student has no auxiliary heads")
        losses = [kd(head, values, temperature=self.temperature, seen=seen) for head in heads]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total
