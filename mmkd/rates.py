"""Learning rates that follow the round: a factor of those of all peers alike, or of the hub's."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mmkd.bounds import Count, SomeShare, Whole, bounded
from mmkd.functional.rates import warmup_cosine
from mmkd.types import ConfigError


class Rate(ABC):
    """A factor of learning rates. A subclass writes ``factor``, a pure function, so that nothing is saved."""

    @abstractmethod
    def factor(self, round: int) -> float:
        """By which rates are multiplied in a round, above 0."""


@bounded
class Cosine(Rate):
    """A linear warm-up, then half a cosine.

    Args:
        rounds: in all.
        warmup: rounds of the warm-up, in which the factor is (round + 1) / (warmup + 1).
        floor: the factor from the last round on, above 0.
    """

    def __init__(self, rounds: Count, warmup: Whole = 0, floor: SomeShare = 0.01) -> None:
        if not 0 <= warmup < rounds:
            raise ConfigError(f"a cosine of {rounds} rounds has no room for {warmup} of warm-up")
        self.rounds, self.warmup, self.floor = rounds, warmup, floor

    def factor(self, round: int) -> float:
        """The cosine reaches its floor with the last round."""
        return warmup_cosine(round, self.warmup, self.rounds - 1, self.floor)


@bounded
class Decay(Rate):
    """The factor is multiplied by ``gamma`` every so many rounds.

    Args:
        gamma: above 0, at most 1.
        every: rounds.
    """

    def __init__(self, gamma: SomeShare, every: Count = 1) -> None:
        self.gamma, self.every = gamma, every

    def factor(self, round: int) -> float:
        """Gamma to the power of how often it has been reached."""
        return float(self.gamma ** (round // self.every))
