"""Pareto fronts against brute force, budgets and pairs against arithmetic done by hand."""

from __future__ import annotations

import random

import pytest

from mmkd.tradeoff.pareto import Deal, best_within, front, paired, spread


def dominates(one: Deal, other: Deal) -> bool:
    return one != other and one.cost <= other.cost and one.gain >= other.gain


def some_deals(seed: int) -> list[Deal]:
    """Few distinct numbers, so that ties and duplicates come up."""
    draw = random.Random(seed)
    return [Deal(draw.randrange(6), draw.randrange(6)) for _ in range(draw.randrange(12))]


def test_the_front_is_what_nothing_dominates() -> None:
    for deals in map(some_deals, range(200)):
        undominated = [i for i, own in enumerate(deals) if not any(dominates(other, own) for other in deals)]
        found = front(deals)
        assert sorted(found) == undominated
        kept = [deals[i] for i in found]
        assert kept == sorted(kept)  # cheapest first, and gain never falls


def test_the_front_ignores_the_order() -> None:
    deals = some_deals(5)
    assert len(set(deals)) > 3
    forwards = sorted(deals[i] for i in front(deals))
    assert sorted(deals[::-1][i] for i in front(deals[::-1])) == forwards


@pytest.mark.parametrize("budget", range(-1, 7))
def test_no_affordable_deal_beats_the_best(budget: int) -> None:
    for deals in map(some_deals, range(50)):
        affordable = [deal for deal in deals if deal.cost <= budget]
        best = best_within(deals, budget)
        assert (best is None) == (affordable == [])
        assert best is None or best in affordable
        assert best is None or not any(dominates(deal, best) or deal.gain > best.gain for deal in affordable)


def test_a_curve_that_falls_again_keeps_its_best_point() -> None:
    curve = [Deal(10, 0.5), Deal(20, 0.7), Deal(30, 0.6), Deal(40, 0.7)]
    assert best_within(curve, 35) == Deal(20, 0.7)
    assert best_within(curve, 10) == Deal(10, 0.5)  # a budget may be used up
    assert best_within(curve, 9.99) is None


def test_spread_of_two_four_nine() -> None:
    # Mean 15/3 = 5; deviations -3, -1, 4; sum of squares 26; 26 / (3 - 1) = 13.
    found = spread([2, 4, 9])
    assert (found.mean, found.low, found.high, found.count) == (5, 2, 9, 3)
    assert found.std == pytest.approx(13**0.5)
    assert spread([2]).std is None


def test_pairs_are_made_by_seed() -> None:
    # Seeds 1 and 2 are shared: 5 - 1 and 6 - 4; the unpaired means would differ by 5.5 - 37.
    found = paired({1: 5.0, 2: 6.0}, {2: 4.0, 1: 1.0, 3: 106.0})
    assert found is not None
    assert (found.mean, found.low, found.high, found.count) == (3, 2, 4, 2)
    assert paired({1: 5.0}, {2: 4.0}) is None


def test_ten_values_carry_a_t_interval_and_nine_their_range() -> None:
    # 1 to 10: mean 5.5, variance 82.5 / 9; the 97.5 % quantile of t with 9 degrees of freedom is 2.262157.
    half = 2.262157 * (82.5 / 9 / 10) ** 0.5
    assert spread(range(1, 11)).interval() == pytest.approx((5.5 - half, 5.5 + half), rel=1e-6)
    assert spread(range(1, 10)).interval() == (1, 9)
    assert spread([3]).interval() == (3, 3)
