"""Curves of offloading by hand, and the laws that they keep: ties, bounds, costs."""

from __future__ import annotations

from itertools import permutations
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd.functional.offloading import Curve, budget_threshold, offloading_curve
from mmkd.functional.random import generator


def floats(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def plain(order: tuple[int, ...], gain: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """What is spent and won in a given order, added up one by one."""
    spent, won = [0.0], [0.0]
    for i in order:
        spent.append(spent[-1] + float(cost[i]))
        won.append(won[-1] + float(gain[i]) / len(gain))
    return floats(*spent) / spent[-1], floats(*won)


def test_a_curve_by_hand() -> None:
    """Asked in the order 2, 0, 1, of which the first mends and the last spoils; costs 1, 2 and 5."""
    curve = offloading_curve(floats(0.5, 0.1, 0.9), floats(0, -1, 1), floats(2, 5, 1))
    torch.testing.assert_close(curve.spent, floats(0, 1, 3, 8) / 8)
    torch.testing.assert_close(curve.won, floats(0, 1, 1, 0) / 3)
    # Trapezoids of width 1, 2 and 5 eighths and of mean height 1/6, 1/3 and 1/6.
    assert curve.area == pytest.approx((1 / 6 + 2 / 3 + 5 / 6) / 8)
    assert [curve.at(b) for b in (0, 1 / 16, 1 / 8, 2 / 8, 1)] == pytest.approx([0, 1 / 6, 1 / 3, 1 / 3, 0])


def test_those_that_are_wanted_alike_come_in_the_mean_of_all_orders() -> None:
    """Two ties, of two and of three, among six."""
    wants, gain = floats(3, 2, 2, 1, 1, 1), floats(0, 1, -1, 1, 0, 1)
    cost = floats(1, 2, 5, 1, 3, 2)
    orders = [(0, *first, *second) for first in permutations((1, 2)) for second in permutations((3, 4, 5))]
    found = [plain(order, gain, cost) for order in orders]
    curve = offloading_curve(wants, gain, cost)
    for mine, all_ in zip(curve, zip(*found, strict=True), strict=True):
        torch.testing.assert_close(mine, torch.stack(all_).mean(0))


def test_wanting_all_alike_is_a_straight_line() -> None:
    gain, cost = floats(1, 1, 0, -1), floats(1, 9, 2, 4)
    curve = offloading_curve(torch.zeros(4), gain, cost)
    torch.testing.assert_close(curve.spent, torch.linspace(0, 1, 5).double())
    torch.testing.assert_close(curve.won, curve.spent * 0.25)
    assert curve.area == pytest.approx(0.125)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=15)
def test_no_order_has_more_area_than_gain_by_cost(seed: int) -> None:
    stream = generator(seed, "offloading")
    gain = torch.randint(-1, 2, (5,), generator=stream).double()
    cost = torch.randint(1, 9, (5,), generator=stream).double()
    best = offloading_curve(gain / cost, gain, cost).area
    for order in permutations(range(5)):
        assert Curve(*plain(order, gain, cost)).area <= best + 1e-12


@given(st.integers(0, 10_000), st.floats(0.01, 100))
@settings(deadline=None, max_examples=15)
def test_units_and_order_of_samples_have_no_effect(seed: int, unit: float) -> None:
    stream = generator(seed, "units")
    wants, gain, cost = torch.rand(3, 7, generator=stream, dtype=torch.float64)
    curve, order = offloading_curve(wants, gain, cost + 0.1), torch.randperm(7, generator=stream)
    for other in (
        offloading_curve(wants * unit, gain, (cost + 0.1) * unit),
        offloading_curve(wants[order], gain[order], cost[order] + 0.1),
    ):
        torch.testing.assert_close(other, curve)


@pytest.mark.parametrize("cost", [floats(), floats(0.0), floats(-1.0)])
def test_nothing_to_ask_about_or_for_nothing_is_refused(cost: Tensor) -> None:
    with pytest.raises(ValueError, match="at least one sample, and asking about each costs something"):
        offloading_curve(torch.zeros(len(cost)), torch.zeros(len(cost)), cost)


def test_thresholds_of_a_budget_by_hand() -> None:
    """Wanted 3, 2, 2 and 1 at costs of 1, 4, 2 and 1, of four samples: sums of 1, 7 and 8 at the three levels."""
    wants, cost = floats(2, 3, 2, 1), floats(4, 1, 2, 1)
    budgets = {0.0: inf, 0.2: 3, 0.25: 2, 1.7: 2, 1.75: 1, 1.99: 1, 2.0: -inf, 9.0: -inf}
    assert {b: budget_threshold(wants, cost, b) for b in budgets} == budgets


@given(st.integers(0, 10_000), st.floats(0.01, 3))
@settings(deadline=None, max_examples=15)
def test_a_budget_is_kept_and_one_level_more_would_not(seed: int, budget: float) -> None:
    stream = generator(seed, "budgets")
    wants = torch.randint(0, 5, (20,), generator=stream).double()
    cost = torch.rand(20, generator=stream).double() + 0.1
    threshold = budget_threshold(wants, cost, budget)
    assert float(cost[wants > threshold].sum()) / 20 <= budget * (1 + 1e-9)
    if threshold > -inf:
        assert float(cost[wants >= threshold].sum()) / 20 > budget


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_a_share_of_requests_is_that_share(share: float) -> None:
    """Though 0.3 x 1,000 is less than 300 in binary."""
    wants = torch.linspace(0, 1, 1000).double()
    asked = wants > budget_threshold(wants, torch.ones(1000), share)
    assert int(asked.sum()) == round(share * 1000)


def test_a_budget_without_a_meaning_is_refused() -> None:
    for cost, budget in ((floats(1), -1.0), (floats(1), nan), (floats(0), 1.0), (floats(), 1.0)):
        with pytest.raises(ValueError, match="a budget of at least 0 is for at least one sample"):
            budget_threshold(torch.zeros(len(cost)), cost, budget)
