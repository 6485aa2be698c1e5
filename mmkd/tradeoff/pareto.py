"""Statistics of a study: means over seeds, the Pareto front, the best within a budget, paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

CLAIM = 10
"""Number of seeds from which a report draws conclusions."""


@dataclass(frozen=True)
class Spread:
    """Mean, deviation and range over runs; ``std`` divides by count - 1 and is None for a single run."""

    mean: float
    std: float | None
    low: float
    high: float
    count: int

    def interval(self) -> tuple[float, float]:
        """The 95 % t interval of the mean; of fewer runs than ``CLAIM`` their range."""
        if self.std is None or self.count < CLAIM:
            return self.low, self.high
        from scipy.stats import t

        half = float(t.ppf(0.975, self.count - 1)) * self.std / sqrt(self.count)
        return self.mean - half, self.mean + half


class Deal(NamedTuple):
    """A cost and the gain that was reached at it."""

    cost: float
    gain: float


def spread(values: Iterable[float]) -> Spread:
    """Mean, standard deviation and range of at least one value."""
    found = list(values)
    std = stdev(found) if len(found) > 1 else None
    return Spread(fmean(found), std, min(found), max(found), len(found))


def front(deals: Sequence[Deal]) -> list[int]:
    """Positions of the deals that no other dominates, cheapest first.

    A deal dominates another that costs no less and gains no more, unless the two are equal.
    """
    kept: list[int] = []
    for position in sorted(range(len(deals)), key=lambda i: (deals[i].cost, -deals[i].gain)):
        if not kept or deals[position].gain > deals[kept[-1]].gain or deals[position] == deals[kept[-1]]:
            kept.append(position)
    return kept


def best_within(deals: Iterable[Deal], budget: float) -> Deal | None:
    """The deal that gains most for at most ``budget``, the cheapest of equals; None if all cost more."""
    affordable = [deal for deal in deals if deal.cost <= budget]
    return max(affordable, key=lambda deal: (deal.gain, -deal.cost), default=None)


def paired(method: Mapping[int, float], baseline: Mapping[int, float]) -> Spread | None:
    """Spread of differences method - baseline over the seeds that both have; None if they share no seed."""
    shared = sorted(method.keys() & baseline.keys())
    return spread(method[seed] - baseline[seed] for seed in shared) if shared else None
