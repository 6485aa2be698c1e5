"""Updates of different ages at a hub that waits for some of them, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.encoding import TopK
from mmkd.federated import FedAvg, FedBuff
from mmkd.federated.fedbuff import SINCE
from mmkd.functional.trees import Tree
from mmkd.types import ConfigError
from tests.federated.quadratics import World, close

PEERS = 3
START = torch.tensor([2.0, -1.0], dtype=torch.float64)


class Hub:
    """A round as the hub sees it: what each peer has learned, since which weights, and whether it came.

    Args:
        learned: updates ``[peers, ...]``.
        since: how often x had moved when each began.
        there: whether each has arrived.
    """

    def __init__(self, learned: Tensor, since: list[int], there: list[bool]) -> None:
        self.rows = torch.arange(PEERS)
        self.learned, self.since = learned, torch.tensor(since, dtype=torch.float64)[:, None]
        self.counted = torch.tensor(there, dtype=torch.float64) / PEERS
        self.told: dict[str, Tree] = {}

    def heard(self, kind: str, otherwise: Tree) -> Tree:
        return otherwise

    def send(self, kind: str, tree: Tree, compression: Any = None) -> Tree:
        gone = self.counted[:, None] > 0
        return {"w": self.learned * gone, SINCE: self.since * gone}

    def answer(self, kind: str, tree: Tree) -> Tree:
        self.told[kind] = tree
        return tree


def rounds(aggregation: FedBuff, *hubs: Hub) -> list[Tensor]:
    """What the hub answers in each."""
    found = []
    for hub in hubs:
        x: Any = {"w": START.expand(PEERS, 2)}
        aggregation.begin(x, hub)  # type: ignore[arg-type]  # a double
        found.append(aggregation.finish(x, hub)["w"][0].clone())  # type: ignore[arg-type]
    return found


UPDATES = torch.tensor([[1.0, 0.0], [0.0, 4.0], [8.0, 8.0]], dtype=torch.float64)


@pytest.mark.parametrize(("a", "old"), [(0.5, 1 / 2), (1.0, 1 / 4), (0.0, 1.0)])
def test_an_update_counts_less_the_more_often_x_has_moved_since(a: float, old: float) -> None:
    """After three moves, one that begins there and one that begins at the start; the third has not come."""
    aggregation = FedBuff(2, a)
    fresh = [Hub(UPDATES, [i, i, i], [True, True, False]) for i in range(3)]
    mixed = Hub(UPDATES, [3, 0, 0], [True, True, False])
    *_, before, after = rounds(aggregation, *fresh, mixed)
    torch.testing.assert_close(before, START + 3 * (UPDATES[0] + UPDATES[1]) / 2)
    torch.testing.assert_close(after - before, (UPDATES[0] + old * UPDATES[1]) / 2)
    assert float(mixed.told[SINCE][""]) == 4


def test_x_stays_until_enough_have_come_and_nothing_is_lost() -> None:
    one = [Hub(UPDATES, [0] * 3, [i == k for i in range(3)]) for k in range(3)]
    first, second, third = rounds(FedBuff(3, server_lr=0.5), *one)
    assert torch.equal(first, START)
    assert torch.equal(second, START)
    torch.testing.assert_close(third, START + 0.5 * UPDATES.sum(0) / 3)


def test_after_a_restart_of_the_hub_updates_from_later_weights_are_new() -> None:
    (got,) = rounds(FedBuff(1, 1.0), Hub(UPDATES, [9, 9, 9], [True, False, False]))
    torch.testing.assert_close(got, START + UPDATES[0])


@pytest.mark.parametrize("buffer", [1, 4])
def test_in_one_round_with_all_it_is_fedavg_with_equal_weights(buffer: int) -> None:
    world = World()
    got = world.run(FedBuff(buffer), steps=3, rounds=2)
    close(got.w, world.run(FedAvg(weights="uniform"), steps=3, rounds=2).w, 1e-12)


@pytest.mark.parametrize(
    "given", [{"weights": "uniform"}, {"compression": TopK(0.5)}, {"answers": TopK(0.5)}]
)
def test_what_it_does_not_do_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="FedBuff weighs all updates alike"):
        FedBuff(**given)
