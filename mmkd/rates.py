"""Learning rates that follow the round: a factor of those of all peers alike, or of the hub's."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mmkd.functional.rates import warmup_cosine
from mmkd.types import ConfigError


class Rate(ABC):
    """A factor of learning rates. A subclass writes ``factor``, a pure function, so that nothing is saved."""

    @abstractmethod
    def factor(self, round: int) -> float:
        """By which rates are multiplied in a round, above 0."""


class Cosine(Rate):
    """A linear warm-up, then half a cosine.

    Args:
        rounds: in all.
        warmup: rounds of the warm-up, in which the factor is (round + 1) / (warmup + 1).
        floor: the factor from the last round on, above 0.
    """

    def __init__(self, rounds: int, warmup: int = 0, floor: float = 0.01) -> None:
        if not 0 <= warmup < rounds:
            raise ConfigError(f"a cosine of {rounds} rounds has no room for {warmup} of warm-up")
        if not 0 < floor <= 1:
            raise ConfigError(f"a rate's floor must lie in (0, 1], not {floor}")
        self.rounds, self.warmup, self.floor = rounds, warmup, floor

    def factor(self, round: int) -> float:
        """The cosine reaches its floor with the last round."""
        return warmup_cosine(round, self.warmup, self.rounds - 1, self.floor)


class Decay(Rate):
    """The factor is multiplied by ``gamma`` every so many rounds.

    Args:
        gamma: above 0, at most 1.
        every: rounds.
    """

    def __init__(self, gamma: float, every: int = 1) -> None:
        if not 0 < gamma <= 1:
            raise ConfigError(f"a rate's gamma must lie in (0, 1], not {gamma}")
        if every < 1:
            raise ConfigError(f"a rate decays every round or more seldom, not every {every}")
        self.gamma, self.every = gamma, every

    def factor(self, round: int) -> float:
        """Gamma to the power of how often it has been reached."""
        return float(self.gamma ** (round // self.every))
