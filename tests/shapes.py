"""What jaxtyping's hook checks: functions and named tuples that name a shape, the first times that a test calls them."""

from __future__ import annotations

import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_type_hints

import pytest
from beartype import beartype
from jaxtyping import jaxtyped

LOOKS = 8
"""How often in one test a function is looked at, as it is called and again as it returns.

Looking at every call takes a quarter of the time of a test that trains.
"""
Key = tuple[str, str]
"""Module and name of a function."""
COUNTED: Counter[Key] = Counter()
"""Looks in this test."""
KNOWN: dict[Key, Any] = {}
"""Functions as they are written, of those that name a shape."""


def sparingly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check what names a shape, until it has been looked at so often in a test: the typechecker of the hook."""
    if not _shaped(function.__annotations__):
        return function
    key, checked = (function.__module__, function.__qualname__), beartype(function)

    def check(*args: Any, **kwargs: Any) -> Any:
        COUNTED[key] += 1
        if COUNTED[key] == LOOKS and key in KNOWN:
            KNOWN[key].__no_type_check__ = True
        return checked(*args, **kwargs)

    return check


def anew() -> None:
    """Begin to count for another test."""
    for key in COUNTED:
        if key in KNOWN:
            KNOWN[key].__no_type_check__ = False
    COUNTED.clear()


def check_fields(patch: pytest.MonkeyPatch) -> None:
    """Named tuples that cross from one package to another are checked as they are made."""
    from mmkd import types
    from mmkd.cohort.coordinator import Lesson
    from mmkd.coordination.exchange import Speech
    from mmkd.knowledge.base import Heard, Statement
    from mmkd.students.detectors.base import BoxTargets, Detections, Maps
    from mmkd.transport.base import Stack

    ours = [types.Target, types.Batch, types.Public, types.Batches, types.Evaluation]
    ours += [types.Classes, types.Detections]
    for kind in [*ours, Lesson, Speech, Heard, Statement, BoxTargets, Detections, Maps, Stack]:
        patch.setattr(kind, "__new__", _checked(kind))


def _checked(kind: Any) -> Any:
    new, hints = kind.__new__, get_type_hints(kind)
    first = next(i for i, hint in enumerate(hints.values()) if _shaped(hint)) + 1

    @functools.wraps(new)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return new(*args, **kwargs)

    plain.__annotations__ = hints
    plain.__qualname__, plain.__module__ = kind.__qualname__, kind.__module__
    KNOWN[plain.__module__, plain.__qualname__] = plain
    checked = jaxtyped(typechecker=sparingly)(plain)

    def made(*args: Any, **kwargs: Any) -> Any:
        # vmap writes down the axes of a tree in a tree of its kind.
        axes = len(args) > first and isinstance(args[first], int)
        return (new if axes else checked)(*args, **kwargs)

    return made


def pass_through(packages: Iterable[str]) -> None:
    """Let functions that name no shape be called as they are, and know those that do.

    jaxtyping takes 20 microseconds for each that does not, which is a fifth of the time of a test that trains.
    """
    roots = tuple(packages)
    for name, module in list(sys.modules.items()):
        if any(name == root or name.startswith(root + ".") for root in roots):
            for function in _functions(module, name):
                plain = inspect.unwrap(function)
                try:
                    hints = get_type_hints(plain)
                except NameError:  # of a name that only mypy imports
                    continue
                if _shaped(hints):
                    KNOWN[plain.__module__, plain.__qualname__] = plain
                else:
                    plain.__no_type_check__ = True


def _functions(holder: Any, module: str) -> Iterator[Any]:
    for value in list(vars(holder).values()):
        if getattr(value, "__module__", module) != module:
            continue
        if inspect.isclass(value):
            yield from _functions(value, module)
        elif isinstance(value, staticmethod | classmethod):
            yield value.__func__
        elif isinstance(value, property):
            yield from filter(None, (value.fget, value.fset))
        elif inspect.isfunction(value):
            yield value


def _shaped(hints: Any) -> bool:
    return "jaxtyping." in repr(hints)
