"""Rules by which a listener combines the logits that it has heard into one distribution a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from mmkd.bounds import Positive, Share, bounded
from mmkd.functional import confidence as confidences
from mmkd.functional.classification import softmax
from mmkd.functional.consensus import (
    align,
    entropy_reduction,
    heard_sum,
    mean_logit,
    mean_probability,
    most_confident,
    sharpen,
)
from mmkd.knowledge.base import Heard
from mmkd.types import Target

Confidence: TypeAlias = Literal["max_probability", "entropy", "margin"] | Callable[[Tensor], Tensor]
"""Lambda of Zhmoginov et al. 2023: a rule of ``mmkd.functional.confidence`` by its name, or your own
function from logits ``[speakers, samples, classes]`` to ``[speakers, samples]``, greater being surer."""


def rule_of(confidence: Confidence) -> Callable[[Tensor], Tensor]:
    """The function that a configuration names."""
    if callable(confidence):
        return confidence
    rule: Callable[[Tensor], Tensor] = getattr(confidences, confidence)
    return rule


class Consensus(ABC):
    """A rule that makes targets of what was heard."""

    @abstractmethod
    def combine(self, heard: Heard, hears: Bool[Tensor, "listeners speakers"], temperature: float) -> Target:
        """Probabilities ``[listeners, samples, classes]`` at ``temperature``, and each sample's weight."""


@bounded
class MeanProbability(Consensus):
    """The mean of the probabilities, raised to a power and normalised again.

    Args:
        sharpen: the power; 1 leaves the mean as it is, 2 squares it.
        confidence: weighs each speaker on each sample; all alike if left out.
        align: make all classes equally frequent over the samples first (``functional.consensus.align``)
            where the mean of some class lies below this share of an even one, or above its inverse, so that
            no class is lost; 0 never aligns, 1 always. For ``samples: all`` and public samples whose
            classes are about equally frequent.
    """

    def __init__(
        self, sharpen: Positive = 1.0, confidence: Confidence | None = None, align: Share = 0.0
    ) -> None:
        self.sharpen, self.confidence, self.align = sharpen, confidence, align

    def combine(self, heard: Heard, hears: Bool[Tensor, "listeners speakers"], temperature: float) -> Target:
        """Probabilities, and 1 where anybody spoke."""
        weights = None if self.confidence is None else rule_of(self.confidence)(heard.values / temperature)
        mean, anybody = mean_probability(
            heard.values, hears, heard.spoke, temperature=temperature, weights=weights
        )
        mean = align(mean, anybody, below=self.align) if self.align else mean
        return Target(mean if self.sharpen == 1 else sharpen(mean, self.sharpen), anybody.to(mean.dtype))


class MeanLogit(Consensus):
    """The softmax of the mean logits, a normalised geometric mean of the probabilities (FedMD, FedDF)."""

    def combine(self, heard: Heard, hears: Bool[Tensor, "listeners speakers"], temperature: float) -> Target:
        """Probabilities, and 1 where anybody spoke."""
        mean, anybody = mean_logit(heard.values, hears, heard.spoke, temperature=temperature)
        return Target(mean, anybody.to(mean.dtype))


class MostConfident(Consensus):
    """Sample by sample the most confident teacher (Zhmoginov et al. 2023).

    Args:
        confidence: Lambda.
    """

    def __init__(self, confidence: Confidence = "max_probability") -> None:
        self.confidence = confidence

    def combine(self, heard: Heard, hears: Bool[Tensor, "listeners speakers"], temperature: float) -> Target:
        """Probabilities, and 1 where anybody spoke."""
        given = None  # ``most_confident`` computes it itself
        if self.confidence != "max_probability":
            given = rule_of(self.confidence)(heard.values / temperature)
        chosen, anybody = most_confident(
            heard.values, hears, heard.spoke, temperature=temperature, confidence=given
        )
        return Target(chosen, anybody.to(chosen.dtype))


@bounded
class EntropyReduction(Consensus):
    """DS-FL: softmax(mean probability / temperature) (Itahara et al. 2020).

    Args:
        temperature: of the reduction; 1 is not the identity.
    """

    def __init__(self, temperature: Positive = 0.1) -> None:
        self.temperature = temperature

    def combine(self, heard: Heard, hears: Bool[Tensor, "listeners speakers"], temperature: float) -> Target:
        """Probabilities, and 1 where anybody spoke."""
        mean, anybody = mean_probability(heard.values, hears, heard.spoke, temperature=temperature)
        return Target(entropy_reduction(mean, temperature=self.temperature), anybody.to(mean.dtype))


class EveryTeacher(Consensus):
    """Every teacher adds a loss of its own: the sum over e_t(k) of Multi-Headed Distillation.

    Where n teachers spoke, n times the loss against their mean probability has the gradient of the sum
    of the n Kullback-Leibler losses, which is greater by the teachers' disagreement.
    """

    def combine(self, heard: Heard, hears: Bool[Tensor, "listeners speakers"], temperature: float) -> Target:
        """Mean probabilities, and how many teachers spoke."""
        full = torch.promote_types(heard.values.dtype, torch.float32)
        soft = softmax(heard.values.to(full) / temperature)
        total, count = heard_sum(soft, hears, heard.spoke)
        mean = total / count.clamp(min=1.0)[..., None]
        silent = (count == 0)[..., None]
        probabilities = mean.masked_fill(silent, 1 / heard.values.shape[-1]).to(soft.dtype)
        return Target(probabilities, count.to(soft.dtype))


def surest(heard: Heard, hears: Tensor, confidence: Confidence) -> Tensor:
    """The greatest confidence that each listener hears, ``[listeners, samples]``; -infinity where none."""
    scores = rule_of(confidence)(heard.values)
    scores = scores.masked_fill(~(heard.spoke & scores.isfinite()), -torch.inf)
    return torch.where(hears[:, :, None], scores, -torch.inf).amax(1)
