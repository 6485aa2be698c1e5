"""Rules that are no weighted sum, over any graph; and aggregations that ask for what a graph does not give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.federated import Aggregation, Combination
from mmkd.functional.trees import Tree
from mmkd.topology import Complete, Ring, Star
from mmkd.types import ConfigError
from tests.federated.quadratics import DIM, World

FLOAT = 8
"""Bytes."""


class Median(Combination):
    """Each coordinate is the median of what is heard; of two middle numbers the smaller."""

    def combine(self, heard: Tree, weights: Tensor) -> Tree:
        return {name: leaf.median(1).values for name, leaf in heard.items()}


def middle(rows: list[Tensor]) -> Tensor:
    """By sorting: the smaller of the two middle ones, if they are two."""
    return torch.stack(rows).sort(0).values[(len(rows) - 1) // 2]


def test_on_a_ring_each_takes_the_median_of_its_neighbours_and_itself() -> None:
    out = World(5).run(Median(), topology=Ring(), init="own", rate=0.0)
    x = torch.stack([middle([out.first[k - 1], out.first[k], out.first[(k + 1) % 5]]) for k in range(5)])
    assert torch.equal(out.w, x)
    assert len(x.unique(dim=0)) > 1
    # Each is heard by its two neighbours.
    entries = [e for e in out.callback.ledger.entries() if e.kind == "weights"]
    assert {(e.sender, e.receiver) for e in entries} == {
        (f"q/{k}", f"q/{(k + side) % 5}") for k in range(5) for side in (1, -1)
    }
    assert [e.bytes for e in entries] == [DIM * FLOAT] * (5 * 2)


@pytest.mark.parametrize(("topology", "edges"), [(Star(), 4 + 4), (Complete(), 4 * 3)])
def test_where_all_hear_all_it_is_the_median_of_all(topology: Any, edges: int) -> None:
    out = World().run(Median(), topology=topology, init="own", rate=0.0)
    expected = middle(list(out.first))
    assert all(torch.equal(row, expected) for row in out.w)
    assert out.callback.ledger.total("weights") == edges * DIM * FLOAT


class Asking(Median):
    """Asks what everybody says, whoever hears it."""

    def finish(self, y: Tree, round: Any) -> Tree:
        return round.send(self.kind, y)


class One(Median):
    """Gives one row for all."""

    def finish(self, y: Tree, round: Any) -> Tree:
        return {name: leaf.mean(0, keepdim=True) for name, leaf in y.items()}


class Mean(Aggregation):
    """Weighs everybody alike, heard or not."""

    def finish(self, y: Tree, round: Any) -> Tree:
        present = len(round.rows)
        return round.mix(self.kind, y, torch.full((present, present), 1 / present, dtype=torch.float64))

    def average(self, statistics: Tree, round: Any) -> Tree:
        return statistics


@pytest.mark.parametrize(
    ("aggregation", "said"),
    [
        (
            Asking(),
            "Asking asks what everybody says, and on this graph not everybody hears everybody: derive it",
        ),
        (
            One(),
            "One.finish gave one row for all on a graph on which not everybody hears everybody; give one",
        ),
        (Mean(), "Mean weighs peers that are not heard: build its weights from round.graph"),
    ],
    ids=["send", "one row", "not heard"],
)
def test_what_a_ring_cannot_give_is_refused_in_one_line(aggregation: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        World().run(aggregation, topology=Ring())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("aggregation", [Asking(), One(), Mean()], ids=["send", "one row", "not heard"])
def test_where_all_hear_all_they_are_not(aggregation: Any) -> None:
    World().run(aggregation, topology=Complete())
