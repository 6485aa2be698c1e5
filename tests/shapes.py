"""What jaxtyping's hook checks: it sees functions and dataclasses, and asks every one of them, whatever it takes."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Any, get_type_hints

import pytest
from beartype import beartype
from jaxtyping import jaxtyped


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
    checked = jaxtyped(typechecker=beartype)(plain)

    def made(*args: Any, **kwargs: Any) -> Any:
        # vmap writes down the axes of a tree in a tree of its kind.
        axes = len(args) > first and isinstance(args[first], int)
        return (new if axes else checked)(*args, **kwargs)

    return made


def pass_through(packages: Iterable[str]) -> None:
    """Let functions that name no shape be called as they are.

    jaxtyping takes 20 microseconds for each of them, which is a fifth of the time of a test that trains.
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
                if not _shaped(hints):
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
