"""Settings of objects by dotted names, by which a run is told from another."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

Setting = str | int | float | bool | None
"""The value of a setting, as JSON has it."""
FOREIGN = ("lightning", "torch", "torchmetrics")
"""Packages of whose objects the class is a setting, and nothing within them."""
DEPTH = 12
"""Depth from which on objects are not looked into: they may hold one another."""


def described(name: str, value: Any) -> Iterator[tuple[str, Setting]]:
    """The settings of a value, whatever it is.

    Of an object these are its class, its public attributes, and arguments of its constructor that it keeps
    with an underscore before their names.

    Args:
        name: of the value; settings within it have names that begin with it and a dot.
        value: a number, a text, a class, a function, a tensor, an object, or several in a list or a mapping.
    """
    if value is None or isinstance(value, bool | int | float | str):
        yield name, value
    elif isinstance(value, Path | torch.dtype | torch.device):
        yield name, str(value)
    elif isinstance(value, Tensor):
        content = hashlib.sha256(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
        yield name, f"{list(value.shape)} of {content.hexdigest()[:16]}"
    elif isinstance(value, partial):
        yield from described(name, value.func)
        yield from described(name, {**dict(enumerate(value.args)), **value.keywords})
    elif isinstance(value, type) or inspect.isroutine(value):
        yield name, _named(value)
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from described(f"{name}.{key}", child)
    elif isinstance(value, list | tuple | set | frozenset | range):
        yield from _listed(name, sorted(value, key=str) if isinstance(value, set | frozenset) else value)
    else:
        yield name, _named(type(value))
        foreign = type(value).__module__.split(".")[0] in FOREIGN
        if not foreign and not isinstance(value, nn.Module | Dataset) and name.count(".") < DEPTH:
            kept = arguments(value)
            public = (
                {n: v for n, v in vars(value).items() if n[0] != "_"} if hasattr(value, "__dict__") else {}
            )
            yield from described(name, public | kept)


def arguments(value: Any) -> dict[str, Any]:
    """Arguments of an object's constructor and of its bases' that it keeps, perhaps with an underscore."""
    own = getattr(value, "__dict__", {})
    names = {
        name
        for kind in type(value).__mro__
        if "__init__" in vars(kind) and kind is not object
        for name in inspect.signature(vars(kind)["__init__"]).parameters
    }
    return {n.removeprefix("_"): v for n, v in own.items() if n.removeprefix("_") in names}


def _named(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _listed(name: str, values: Iterable[Any]) -> Iterator[tuple[str, Setting]]:
    """A list of plain values is one setting; any other has its places as names."""
    values = list(values)
    if all(value is None or isinstance(value, bool | int | float | str) for value in values):
        yield name, json.dumps(values)
    else:
        yield from described(name, dict(enumerate(values)))
