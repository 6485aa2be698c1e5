"""A device does not ask twice about what is almost the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import cos, radians
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.caching import Eviction, LeastFrequentlyUsed, LeastRecentlyUsed, TimeToLive
from mmkd.edge.asking import Cascade
from mmkd.edge.graph import Graph
from mmkd.edge.remembering import RequestCache
from mmkd.students import Classifier
from mmkd.types import ConfigError


def at(degrees: float, length: float = 1.0) -> Tensor:
    """A vector in the plane."""
    return length * torch.tensor([cos(radians(degrees)), cos(radians(90 - degrees))])


def chances(one: float) -> Tensor:
    return torch.tensor([one, 1 - one])


def test_the_nearest_answer_serves_if_it_is_near_and_fresh() -> None:
    """Nearness is one of directions; an answer is as old as its question."""
    cache = RequestCache(near=cos(radians(10)), seconds=5.0)
    assert cache.find(at(0), 0.0) is None
    cache.keep(at(0), chances(0.1), ["a"], 0.0)
    cache.keep(at(16), chances(0.2), ["b"], 2.0)
    told = [cache.find(at(degrees, 3.0), 4.0) for degrees in (7, 9, 26, 26.1, -10.1)]
    assert [None if t is None else (float(t.probabilities[0]), t.by, t.age) for t in told] == [
        (pytest.approx(0.1), ["a"], 4.0),
        (pytest.approx(0.2), ["b"], 2.0),
        (pytest.approx(0.2), ["b"], 2.0),
        None,
        None,
    ]
    assert cache.find(at(0), 5.0) is not None
    assert cache.find(at(0), 5.001) is None
    assert cache.find(at(16), 7.0) is not None
    assert (cache.hits, cache.misses) == (5, 4)


def test_only_what_is_the_same_is_near_at_one() -> None:
    cache = RequestCache()
    for i in range(50):
        cache.keep(at(i), chances(i / 50), ["a"], 0.0)
    told = [cache.find(at(i, 7.0), 0.0) for i in range(50)]
    assert [round(float(t.probabilities[0]) * 50) for t in told if t is not None] == list(range(50))
    assert cache.find(at(0.5), 0.0) is None


@pytest.mark.parametrize(
    ("eviction", "gone"), [(LeastRecentlyUsed(), 1), (LeastFrequentlyUsed(), 2), (TimeToLive(), 0)]
)
def test_what_goes(eviction: Eviction, gone: int) -> None:
    """0 was kept first; 1 was used longest ago, though thrice; 2 was used least."""
    cache = RequestCache(entries=3, eviction=eviction)
    for i in range(3):
        cache.find(at(30 * i + 1), 0.0)
        cache.keep(at(30 * i), chances(0.5), ["a"], 0.0)
    for i in (1, 1, 1, 2, 0, 0):
        assert cache.find(at(30 * i), 0.0) is not None
    cache.find(at(-90), 0.0)
    cache.keep(at(-90), chances(0.5), ["a"], 0.0)
    assert [cache.find(at(30 * i), 0.0) is None for i in range(3)] == [i == gone for i in range(3)]


class Linear(Classifier):
    """Never sure."""

    modalities = ("thing",)

    def __init__(self) -> None:
        super().__init__(2, dim=2)
        self.main.weight = nn.Parameter(torch.zeros(2, 2))

    def embed(self, x: Tensor) -> Tensor:
        return x


class Asked(Cascade):
    """Others answer with what a list holds."""

    answers: list[Tensor | None]

    async def _ask(self, *_: Any) -> Tensor | None:
        return self.answers.pop(0)


@pytest.mark.parametrize("make", [lambda: RequestCache(near=cos(radians(5))), lambda: None])
def test_a_device_remembers_what_it_was_told(make: Callable[[], RequestCache | None]) -> None:
    """What nobody answered is asked again; what somebody did is not, if there is something to remember."""
    device = Asked(Graph(Linear()), None, "edge", "a/0", ["b/0", "b/1"], threshold=0.9, remembers=make())
    device.answers = [None, None, chances(0.8), None, chances(0.1), chances(0.3)]
    found = [asyncio.run(device.answer(at(angle)[None])) for angle in (0, 1, 2)]
    assert found[0].by == []
    assert found[1].by == ["b/0"]
    remembers = make() is not None
    assert torch.allclose(found[2].probabilities, chances(0.8 if remembers else 0.2))
    assert found[2].by == (["b/0"] if remembers else ["b/0", "b/1"])
    assert [a.asked for a in found] == [True, True, not remembers]
    assert device.counts["remembered"] == int(remembers)


def test_who_embeds_nothing_remembers_nothing() -> None:
    graph = Graph(Linear())
    graph.student = nn.Identity()  # type: ignore[assignment]  # stands for a detector
    with pytest.raises(ConfigError, match="Identity embeds nothing"):
        graph.embedding((torch.zeros(1, 2),))
