"""Bounds of arguments hold for calls from Python, for files, and wherever a constructor has them."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import pytest
from jsonargparse import ArgumentParser

import datamodules
import mmkd
from mmkd.bounds import (
    AtLeastZero,
    BelowOne,
    Bound,
    Count,
    Positive,
    Share,
    Size,
    SomeShare,
    Whole,
    bounded,
    bounds_of,
    refusal,
)
from mmkd.topology import ErdosRenyi, RandomRegular
from mmkd.types import ConfigError

SMALL = math.ulp(0.0)
BELOW = 1 - math.ulp(0.5)  # the greatest number below 1
HELD = {
    Count: ([1, 10**9], [0, -1, 1.5, math.inf, "1", None]),
    Size: ([1, 10_000_000], [0, 10_000_001]),
    Whole: ([0, 3], [-1, 0.5]),
    Positive: ([SMALL, 7, 1e300], [0, -SMALL, math.nan, math.inf, True, None]),
    AtLeastZero: ([0, 0.0, 7.5], [-SMALL, math.nan]),
    Share: ([0, 0.5, 1], [-SMALL, 1 + 1e-15, 5]),
    SomeShare: ([SMALL, 1], [0, 1.5]),
    BelowOne: ([0, BELOW], [1, -1]),
    Positive | None: ([None, 1.0], [0, "1"]),
    Count | Literal["auto"]: (["auto", 2], [0, "other"]),
    Positive | list[Positive]: ([1.0, [1.0, 2.0], []], [0.0, [1.0, 0.0]]),
    Whole | list[Whole] | dict[str, Whole | list[Whole]]: ([0, [0, 2], {"a": [0, 2]}], [-1, [-1, 2], {"a": [0, -2]}]),
    tuple[BelowOne, Share]: ([(0.5, 1.0), [0.5, 1.0]], [(1.0, 0.5), (0.5, 2.0)]),
    tuple[Size, ...]: ([(1, 2, 3)], [(1, 2, 0)]),
}  # fmt: skip
"""By type what is within its bounds, and what is not."""


@pytest.mark.parametrize("hint", HELD, ids=str)
def test_what_is_allowed(hint: Any) -> None:
    right, wrong = HELD[hint]
    assert [refusal(hint, value) for value in right] == [None] * len(right)
    assert all(refusal(hint, value) for value in wrong)


@bounded
class Plain:
    def __init__(self, rate: Positive, *, parts: Count = 0, name: str = "") -> None:
        self.rate, self.parts, self.name = rate, parts, name


class Inherits(Plain):
    def __init__(self, share: Share = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@bounded
@dataclass
class Fields:
    rate: Positive
    parts: Annotated[int, Bound(2, 8)] = 2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Plain(-1.0), "Plain: rate must be above 0, not -1.0"),
        (lambda: Plain(rate=math.inf), "Plain: rate must be above 0 and finite, not inf"),
        (lambda: Plain(1.0, parts=2.5), "Plain: parts must be a whole number, not 2.5"),
        (lambda: Inherits(rate=0), "Inherits: rate must be above 0, not 0"),
        (lambda: Fields(1.0, 9), "Fields: parts must lie in [2, 8], not 9"),
        (lambda: ErdosRenyi(1.5), "ErdosRenyi: probability must lie in [0, 1], not 1.5"),
        (lambda: RandomRegular(-1, every=2), "RandomRegular: degree must be at least 0, not -1"),
        (lambda: RandomRegular(1, every=0), "RandomRegular: every must be at least 1, not 0"),
        (lambda: Fields("fast"), "Fields: rate must be above 0, not 'fast'"),
    ],
)
def test_a_refusal_says_which_argument_of_which_class(call: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value) == says


def test_defaults_and_what_is_within_bounds_pass_unchanged() -> None:
    assert vars(Plain(2.0, name="x")) == {"rate": 2.0, "parts": 0, "name": "x"}
    assert Fields(0.5, parts=8) == Fields(0.5, 8)


def test_a_signature_stays_readable() -> None:
    """For editors, and for jsonargparse, which sees the number below the bound."""
    assert str(inspect.signature(Plain)).startswith("(rate: 'Positive', *, parts: 'Count' = 0")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Plain, "plain")
    with pytest.raises(ConfigError, match="Plain: rate must be above 0, not -2"):
        parser.instantiate_classes(parser.parse_args(["--plain.rate=-2"]))


def constructors() -> Iterator[tuple[type, Any]]:
    """Every class of the package and of the datamodules, with its own constructor."""
    for package in (mmkd, datamodules):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for kind in vars(module).values():
                if inspect.isclass(kind) and kind.__module__ == module.__name__ and "__init__" in vars(kind):
                    yield kind, vars(kind)["__init__"]


def test_nobody_forgets_the_decorator() -> None:
    """A bound in an annotation that nothing checks would be a lie."""
    found = dict(constructors())
    bound = {}
    for kind, init in found.items():
        try:
            hints = get_type_hints(init, include_extras=True)
        except NameError:  # a name for type checkers alone
            continue
        bound[kind] = any(list(bounds_of(hint)) for hint in hints.values())
    forgotten = [kind.__name__ for kind, has in bound.items() if has and not hasattr(found[kind], "bounds")]
    assert forgotten == []
    assert sum(bound.values()) > 50
