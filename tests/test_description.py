"""Settings of objects by dotted names."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmkd.description import described
from mmkd.knowledge import MeanProbability, SharedLogits
from mmkd.topology import RandomRegular


class Own:
    def __init__(self, rate: float, hidden: int = 3, **rest: Any) -> None:
        self.rate, self._hidden, self._cache = rate, hidden, object()
        self.me = self


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, {"x": None}),
        (0.5, {"x": 0.5}),
        (Path("a/b"), {"x": "a/b"}),
        (torch.float16, {"x": "torch.float16"}),
        ([1, 2.5, "a", None], {"x": '[1, 2.5, "a", null]'}),
        ({3, 1, 2}, {"x": "[1, 2, 3]"}),
        ({"a": 1, "b": {"c": True}}, {"x.a": 1, "x.b.c": True}),
        ([torch.nn.ReLU, 1], {"x.0": "torch.nn.modules.activation.ReLU", "x.1": 1}),
        (partial(pow, 2, mod=7), {"x": "builtins.pow", "x.0": 2, "x.mod": 7}),
        (nn.Linear(2, 3), {"x": "torch.nn.modules.linear.Linear"}),
        (
            RandomRegular(4),
            {"x": "mmkd.topology.random.RandomRegular", "x.degree": 4, "x.seed": 0, "x.every": None},
        ),
    ],
)
def test_of_values_of_every_kind(value: Any, found: dict[str, Any]) -> None:
    assert dict(described("x", value)) == found


def test_of_an_object_what_it_was_made_with_and_no_cache() -> None:
    """One that holds itself comes to an end."""
    found = dict(described("x", Own(0.1)))
    name = f"{Own.__module__}.Own"
    assert {n: v for n, v in found.items() if "me" not in n} == {"x": name, "x.rate": 0.1, "x.hidden": 3}
    assert len(found) < 100


def test_equal_values_are_described_alike_and_others_are_not() -> None:
    def one(**settings: Any) -> dict[str, Any]:
        return dict(described("k", SharedLogits(**settings)))

    assert one() == one()
    for changed in (
        {"alpha": 0.25},
        {"temperature": 2.0},
        {"consensus": MeanProbability(sharpen=2.0)},
        {"samples": "all"},
    ):
        assert one(**changed) != one()
    (_, same), (_, other) = (next(described("w", torch.tensor([1.0, x]))) for x in (2.0, 3.0))
    assert same != other
    assert next(described("w", torch.tensor([1.0, 2.0])))[1] == same
