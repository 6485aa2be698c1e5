"""Grids of test cases, of which the gate runs a small cover and ``scripts/test --long`` every one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations, product
from typing import Any

import pytest

Factor = Mapping[str, Any] | Iterable[Any]
"""Values of one argument, or values by the name under which a case shows them."""


def pairwise(**factors: Factor) -> pytest.MarkDecorator:
    """Parametrizes a test over a grid: in the gate any two values of two factors occur in some case.

    The rest of the grid is ``long``. The cover is found without chance, so it is the same every time.
    """
    return _grid(factors, 2)


def each_once(**factors: Factor) -> pytest.MarkDecorator:
    """Parametrizes a test over a grid: in the gate any value of a factor occurs in some case.

    For factors of which a law depends on one alone, such as the ``path`` of a local step (see
    ``tests.paths``). The rest of the grid is ``long``.
    """
    return _grid(factors, 1)


def _grid(factors: Mapping[str, Factor], together: int) -> pytest.MarkDecorator:
    named = [
        list(values.items()) if isinstance(values, Mapping) else [(_name(v), v) for v in values]
        for values in factors.values()
    ]
    grid = list(product(*(range(len(values)) for values in named)))
    chosen = cover(grid, together)
    cases = []
    for case in grid:
        picked = [values[i] for values, i in zip(named, case, strict=True)]
        marks = () if case in chosen else (pytest.mark.long,)
        cases.append(pytest.param(*(v for _, v in picked), id="-".join(n for n, _ in picked), marks=marks))
    return pytest.mark.parametrize(",".join(factors), cases, indirect=[n for n in factors if n == "path"])


def _name(value: Any) -> str:
    plain = value is None or isinstance(value, str | int | float)
    return str(value) if plain else getattr(value, "__name__", type(value).__name__)


def cover(grid: list[tuple[int, ...]], together: int) -> set[tuple[int, ...]]:
    """Cases in which any values of so many factors occur ``together`` that do in the grid; found greedily."""

    def parts(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(case), min(together, len(case))))

    left = set[tuple[tuple[int, int], ...]]().union(*map(parts, grid))
    chosen = set[tuple[int, ...]]()
    while left:
        best = max(grid, key=lambda case: len(left & parts(case)))
        chosen.add(best)
        left -= parts(best)
    return chosen
