"""Distillation losses, one of which a configuration names: how far a head is from its target."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.bounds import AtLeastZero, bounded
from mmkd.functional import distillation
from mmkd.functional.distillation import Seen


class DistillationLoss(ABC):
    """Distance of logits from target probabilities, one number a peer. A subclass writes ``measure``."""

    def __call__(
        self,
        logits: Float[Tensor, "peers samples classes"],
        target: Float[Tensor, "peers samples classes"],
        temperature: float,
        seen: Seen,
    ) -> Float[Tensor, " peers"]:
        """The loss of each peer.

        Args:
            logits: of the student.
            target: probabilities at ``temperature``.
            temperature: of teachers and students.
            seen: how much each sample counts.
        """
        return self.measure(logits, target, temperature, seen)

    @abstractmethod
    def measure(self, logits: Tensor, target: Tensor, temperature: float, seen: Tensor) -> Tensor:
        """The loss of each peer; the arguments are those of a call."""


def _logits(target: Tensor, temperature: float) -> Tensor:
    """Logits that have these probabilities, up to an offset, which has no effect on the losses here."""
    return temperature * target.clamp(min=torch.finfo(target.dtype).tiny).log()


class KullbackLeibler(DistillationLoss):
    """T^2 KL(teacher || student) (Hinton et al. 2015)."""

    def measure(self, logits: Tensor, target: Tensor, temperature: float, seen: Tensor) -> Tensor:
        """The loss of each peer."""
        return distillation.kd(logits, target, temperature=temperature, seen=seen)


class LogitMatching(DistillationLoss):
    """Mean squared difference of zero-mean logits (Ba & Caruana 2014)."""

    def measure(self, logits: Tensor, target: Tensor, temperature: float, seen: Tensor) -> Tensor:
        """The loss of each peer."""
        return distillation.logit_matching(logits, _logits(target, temperature), seen=seen)


class LogitDistance(DistillationLoss):
    """Mean absolute difference of zero-mean logits: FedMD's digest (Li & Wang 2019)."""

    def measure(self, logits: Tensor, target: Tensor, temperature: float, seen: Tensor) -> Tensor:
        """The loss of each peer."""
        return distillation.logit_distance(logits, _logits(target, temperature), seen=seen)


@bounded
class Decoupled(DistillationLoss):
    """DKD (Zhao et al. 2022); the target class is the teacher's most likely.

    Args:
        alpha: weight of the target class against the rest.
        beta: weight of the classes among the rest.
    """

    def __init__(self, alpha: AtLeastZero = 1.0, beta: AtLeastZero = 8.0) -> None:
        self.alpha, self.beta = alpha, beta

    def measure(self, logits: Tensor, target: Tensor, temperature: float, seen: Tensor) -> Tensor:
        """The loss of each peer."""
        return distillation.dkd(
            logits, target, temperature=temperature, alpha=self.alpha, beta=self.beta, seen=seen
        )


class Standardised(DistillationLoss):
    """KL of z-scored logits (Sun et al. 2024)."""

    def measure(self, logits: Tensor, target: Tensor, temperature: float, seen: Tensor) -> Tensor:
        """The loss of each peer."""
        teacher = _logits(target, temperature)
        return distillation.logit_standardised(logits, teacher, temperature=temperature, seen=seen)


@bounded
class Correlation(DistillationLoss):
    """DIST (Huang et al. 2022): correlations among classes and among samples.

    Args:
        beta: weight of the relation among classes.
        gamma: weight of the relation among samples.
    """

    def __init__(self, beta: AtLeastZero = 1.0, gamma: AtLeastZero = 1.0) -> None:
        self.beta, self.gamma = beta, gamma

    def measure(self, logits: Tensor, target: Tensor, temperature: float, seen: Tensor) -> Tensor:
        """The loss of each peer."""
        return distillation.dist(
            logits, target, temperature=temperature, beta=self.beta, gamma=self.gamma, seen=seen
        )
