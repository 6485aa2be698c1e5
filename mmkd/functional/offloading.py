"""Offloading: what is won by asking somebody else about some samples, and which to ask about first."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDING = 1e-9
"""Part of a budget by which sums of costs may exceed it: those of a share of all samples are not exact."""


class Curve(NamedTuple):
    """What is spent and won when the first samples are asked about, from none to all.

    Where several are wanted alike, any of them may come first: the curve is the mean over all their orders.
    """

    spent: Float[Tensor, " asked"]  # share of the cost of asking about all
    won: Float[Tensor, " asked"]  # samples that are right and were not, of all

    @property
    def area(self) -> float:
        """Mean of what is won over all budgets: the area under the curve."""
        return float(torch.trapezoid(self.won, self.spent))

    def at(self, budget: float) -> float:
        """What is won for a share of the cost; between two samples, by so much of the second."""
        place = int(torch.searchsorted(self.spent, budget).clamp(1, len(self.spent) - 1))
        low, high = self.spent[place - 1], self.spent[place]
        part = 0.0 if high == low else float(((budget - low) / (high - low)).clamp(0, 1))
        return float(self.won[place - 1]) * (1 - part) + float(self.won[place]) * part


def offloading_curve(
    wants: Float[Tensor, " samples"], gain: Float[Tensor, " samples"], cost: Float[Tensor, " samples"]
) -> Curve:
    """What is won by asking in the order of ``wants``.

    Args:
        wants: how much each sample is to be asked about; the greatest comes first.
        gain: 1 where the answer is right and the device is not, -1 where it is the other way round, else 0.
        cost: of asking about each sample, above 0.

    Raises:
        ValueError: there are no samples, or a cost is not above 0.
    """
    if len(wants) == 0 or bool((cost <= 0).any()):
        raise ValueError("a curve is of at least one sample, and asking about each costs something")
    ordered, order = wants.double().sort(descending=True, stable=True)
    alike = torch.cat([ordered.new_zeros(1), (ordered.diff() != 0).double()]).cumsum(0).long()

    def added(values: Tensor) -> Tensor:
        """Sums from the first on, of the means of those that are wanted alike."""
        values = values.double()[order]
        sums = values.new_zeros(int(alike[-1]) + 1).index_add(0, alike, values)
        count = torch.bincount(alike).double()
        return torch.cat([values.new_zeros(1), (sums / count)[alike].cumsum(0)])

    spent = added(cost)
    return Curve(spent / spent[-1], added(gain) / len(wants))


def budget_threshold(
    wants: Float[Tensor, " samples"], cost: Float[Tensor, " samples"], budget: float
) -> float:
    """The least threshold at which asking about all that is wanted more costs at most ``budget`` a sample.

    Those that are wanted alike are asked about together or not at all. A budget of 0 gives infinity, so that
    nobody asks about other samples either.

    Args:
        wants: how much each sample is to be asked about.
        cost: of asking about each sample, above 0.
        budget: mean cost over all samples, asked about or not.

    Raises:
        ValueError: there are no samples, a cost is not above 0, or the budget is below 0.
    """
    if len(wants) == 0 or bool((cost <= 0).any()) or not budget >= 0:
        raise ValueError("a budget of at least 0 is for at least one sample, and each costs something")
    if budget == 0:
        return inf
    levels, which = wants.double().unique(return_inverse=True)  # ascending
    spent = cost.double().new_zeros(len(levels)).index_add(0, which, cost.double()).flip(0).cumsum(0)
    kept = int((spent <= len(wants) * budget * (1 + ROUNDING)).sum())  # levels that are asked about
    return -inf if kept == len(levels) else float(levels[len(levels) - 1 - kept])
