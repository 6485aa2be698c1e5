"""Covers hold all that they promise, and are smaller than their grids."""

from itertools import combinations, product

import pytest

from tests.grids import cover


@pytest.mark.parametrize("sizes", [(2,), (2, 3), (2, 2, 2), (2, 2, 2, 2), (4, 3, 2, 2)])
def test_a_cover_holds_all_pairs(sizes: tuple[int, ...]) -> None:
    grid = list(product(*map(range, sizes)))
    chosen = cover(grid, 2)
    assert chosen <= set(grid)
    for (i, one), (j, two) in combinations(enumerate(sizes), 2):
        assert {(case[i], case[j]) for case in chosen} == set(product(range(one), range(two)))
    assert (len(chosen) < len(grid)) == (len(sizes) > 2)
    assert {case[0] for case in chosen} == set(range(sizes[0]))


def test_of_binary_factors_four_cases_hold_all_pairs() -> None:
    assert len(cover(list(product(range(2), repeat=3)), 2)) == 4


@pytest.mark.parametrize("sizes", [(3,), (2, 3), (4, 3, 2, 2)])
def test_a_cover_of_values_is_as_large_as_the_largest_factor(sizes: tuple[int, ...]) -> None:
    chosen = cover(list(product(*map(range, sizes))), 1)
    assert len(chosen) == max(sizes)
    for i, size in enumerate(sizes):
        assert {case[i] for case in chosen} == set(range(size))
