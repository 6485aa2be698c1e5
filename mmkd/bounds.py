"""Bounds of arguments: types of numbers that say what is allowed, and a decorator that checks them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache, wraps
from inspect import signature
from math import inf, isfinite, isinf
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from mmkd.errors import ConfigError

Made = TypeVar("Made")
"""An instance of any class."""


@dataclass(frozen=True)
class Bound:
    """An interval of finite numbers, as metadata of an ``Annotated`` number.

    Args:
        least: its lower end.
        most: its upper end.
        above: whether the lower end itself is left out.
        below: whether the upper end itself is left out.
    """

    least: float = -inf
    most: float = inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies in the interval."""
        high = value < self.most if self.below else value <= self.most
        return isfinite(value) and high and (value > self.least if self.above else value >= self.least)

    def __str__(self) -> str:
        low, high = f"{self.least:g}", f"{self.most:.15g}"
        if self.most < inf:
            return f"lie in {'(' if self.above else '['}{low}, {high}{')' if self.below else ']'}"
        return f"be {'above' if self.above else 'at least'} {low}" if self.least > -inf else "be finite"


MOST = 10_000_000
"""The most of anything that is held in memory one by one, such as peers: a number above it is a slip."""
Count: TypeAlias = Annotated[int, Bound(1)]
"""How many or how often, at least once."""
Whole: TypeAlias = Annotated[int, Bound(0)]
"""How many or how often, perhaps never."""
Size: TypeAlias = Annotated[int, Bound(1, MOST)]
"""How many there are of what is held in memory."""
SizeOrZero: TypeAlias = Annotated[int, Bound(0, MOST)]
"""How many there are of what is held in memory and may be left out."""
Finite: TypeAlias = Annotated[float, Bound()]
"""Any number but infinity and NaN."""
Positive: TypeAlias = Annotated[float, Bound(0, above=True)]
"""A rate, a scale, a temperature."""
AtLeastZero: TypeAlias = Annotated[float, Bound(0)]
"""A weight, which has no effect at 0."""
Share: TypeAlias = Annotated[float, Bound(0, 1)]
"""A part of a whole, or a chance."""
SomeShare: TypeAlias = Annotated[float, Bound(0, 1, above=True)]
"""A part of a whole that is not empty."""
Seed: TypeAlias = Annotated[int, Bound(0, 2**32 - 1)]
"""Of a run, as Lightning takes them."""
BelowOne: TypeAlias = Annotated[float, Bound(0, 1, below=True)]
"""How much of something is kept or dropped, never all of it: momentum, dropout."""


def bounded(made: type[Made]) -> type[Made]:
    """A class whose constructor checks the bounds in its annotations, called from Python or for a file.

    A class that writes a constructor with bounds is decorated itself, whatever it derives from. Defaults are
    not checked.

    Example:
        >>> @bounded
        ... class Clipped:
        ...     def __init__(self, norm: Positive) -> None: ...
        >>> Clipped(-1.0)
        Traceback (most recent call last):
        mmkd.errors.ConfigError: Clipped: norm must be above 0, not -1.0
    """
    inner = made.__init__
    names = list(signature(inner).parameters)[1:]

    @cache
    def hints() -> dict[str, Any]:
        given = get_type_hints(made if is_dataclass(made) else inner, include_extras=True)
        return {name: hint for name, hint in given.items() if name in names and list(bounds_of(hint))}

    @wraps(inner)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        bounds = hints()
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            if name in bounds and (wrong := refusal(bounds[name], value)):
                raise ConfigError(f"{type(self).__name__}: {name} must {wrong}")
        inner(self, *args, **kwargs)

    checked.bounds = hints  # type: ignore[attr-defined]  # by which a test finds classes without the decorator
    made.__init__ = checked  # type: ignore[method-assign]  # as any class decorator that wraps it
    return made


def bounds_of(hint: Any) -> Iterator[Bound]:
    """The bounds that are anywhere in a type."""
    if get_origin(hint) is Annotated:
        yield from (part for part in hint.__metadata__ if isinstance(part, Bound))
    if get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from bounds_of(part)


def refusal(hint: Any, value: Any) -> str | None:
    """What a value must be and is not, to be said after "must"; None if it is of a type and in its bounds."""
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    wrong = [_within(arm, value) for arm in arms if _is_about(arm, value)]
    if not wrong:
        bound = next(bounds_of(hint), None)
        return f"{bound or 'be ' + ' or '.join(map(_kind, arms))}, not {value!r}"
    return None if None in wrong else wrong[0]


KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
"""What users call values of plain types."""


def _kind(hint: Any) -> str:
    """What users call values of a type without bounds."""
    origin = get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if isinstance(origin, type):
        return "a dictionary" if issubclass(origin, Mapping) else "a list"
    return KINDS.get(hint, f"a {getattr(hint, '__name__', hint)}")


def _is_about(hint: Any, value: Any) -> bool:
    """Whether a value is of the kind that a type is about, within its bounds or not."""
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin is Annotated or hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple)
    kind = origin or hint
    return hint is Any or not isinstance(kind, type) or isinstance(value, kind)


def _within(hint: Any, value: Any) -> str | None:
    """As ``refusal``, for a value of the kind that the type is about."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if parts[0] is int and not isinstance(value, Integral):
            return f"be a whole number, not {value!r}"
        bound = next(bounds_of(hint))
        return None if bound.holds(value) else f"{bound}{' and finite' * isinf(value)}, not {value!r}"
    if not isinstance(origin, type) or not isinstance(value, list | tuple | Mapping):
        return None
    if isinstance(value, Mapping):
        pairs = [(kind, one) for pair in value.items() for kind, one in zip(parts, pair, strict=True)]
    elif origin is tuple and ... not in parts:
        if len(value) != len(parts):
            return f"be {len(parts)} values, not {value!r}"
        pairs = list(zip(parts, value, strict=True))
    else:
        pairs = [(parts[0], one) for one in value]
    return next((wrong for kind, one in pairs if (wrong := refusal(kind, one))), None)
