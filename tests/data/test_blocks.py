"""A block holds what every peer would read by itself, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.data.blocks import Blocks, PrivateBatches, cut, side_by_side, sweep
from mmkd.data.reader import Reader
from mmkd.schedule import Schedule
from mmkd.types import Batches

SIZES = {"a/0": 10, "a/1": 7, "a/2": 23, "b/0": 3, "b/1": 11}


class Listed(Dataset[Any]):
    """What torch asks of a data set, and no more."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Any:
        return self.samples[i]


class Mixed(PeerDataModule):
    """Fleet a reads vectors; fleet b pairs of them, and its second peer longer ones than its first."""

    num_classes = 5
    modalities = ("m",)

    def private(self, peer: str, split: str) -> Any:
        size, stream = SIZES[peer], torch.Generator().manual_seed(sum(map(ord, peer)))
        y = torch.randint(5, (size,), generator=stream)
        if peer.startswith("a"):
            return Samples(torch.randn(size, 4, generator=stream), y)
        width = 2 if peer == "b/0" else 3
        x = {k: torch.randn(size, width, generator=stream) for k in ("left", "right")}
        return Listed([({k: v[i] for k, v in x.items()}, int(y[i]), 100 + i) for i in range(size)])

    def public(self, split: str) -> Any:
        return PublicSamples({"m": torch.arange(9.0)[:, None]})


def data(**kwargs: Any) -> Mixed:
    return Mixed(batch_size=4, peers=dict.fromkeys(SIZES, "m"), **kwargs)


def rows(batches: Batches) -> Mapping[str, tuple[Any, Tensor, Tensor, int]]:
    return {
        peer: (
            tree_map(lambda leaf, i=i: leaf[i], batches.x),
            batches.y[i],
            batches.ids[i],
            batches.keys[i],
        )
        for i, peer in enumerate(batches.peers)
    }


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("work", [{"local_epochs": 2}, {"local_steps": {"a": 5, "a/1": 2, "b": [1, 7]}}])
def test_a_block_is_what_each_would_read_alone(drop_last: bool, work: Any) -> None:
    """Short batches, unequal work, views of several tensors, views of different shapes in one fleet."""
    source = data(drop_last=drop_last)
    steps = {peer: source.steps_per_epoch(peer) for peer in SIZES}
    table = Schedule(**work, block=3).timetable(steps)
    fleets = [["a/0", "a/1", "a/2"], ["b/0", "b/1"]]
    blocks, alone = Blocks(source, table, fleets, True), {p: PrivateBatches(source, p) for p in SIZES}
    together, seen = 0, dict.fromkeys(SIZES, 0)
    for number in range(2 * table.blocks_per_round):
        for step in blocks[number].steps:
            found = {peer: row for same in step.private for peer, row in rows(same).items()}
            assert sorted(found) == sorted(table.active(step.tick))
            assert all(len({peer[0] for peer in same.peers}) == 1 for same in step.private)
            together += sum(len(same.peers) > 1 for same in step.private)
            for peer, (x, y, ids, key) in found.items():
                batch = alone[peer][seen[peer]]
                torch.testing.assert_close(x, batch.x, rtol=0, atol=0)
                assert torch.equal(y, batch.y)
                assert torch.equal(ids, batch.ids)
                assert key == batch.key
                seen[peer] += 1
            assert step.public is not None
    assert together > 0
    assert min(seen.values()) > 1


def test_batches_of_other_views_are_not_stacked() -> None:
    """Though their tensors are of one shape."""
    x, stream = torch.arange(8.0).reshape(4, 2), torch.arange(4)
    views = {"a": {"left": x, "right": -x}, "b": {"left": x, "right": -x}, "c": {"left": x, "middle": -x}}
    readings = {peer: sweep(Reader(Samples(view, stream)), 4, 0) for peer, view in views.items()}
    (step,) = side_by_side(readings)
    assert [(same.peers, sorted(same.x)) for same in step] == [
        (["a", "b"], ["left", "right"]),
        (["c"], ["left", "middle"]),
    ]
    assert torch.equal(step[1].x["middle"], -x[None])


def test_parts_of_a_batch_are_the_batch() -> None:
    readings = {peer: PrivateBatches(data(), peer).read(range(2)) for peer in ("a/0", "a/2")}
    (whole,) = side_by_side(readings)[0]
    for parts in (1, 2, 3, 9):  # more than there are samples, too
        pieces = cut(whole, parts)
        assert len(pieces) == min(parts, 4)
        assert sum(share for _, share in pieces) == pytest.approx(1)
        ids = torch.cat([part.ids for part, _ in pieces], 1).sort(1).values
        assert torch.equal(ids, whole.ids.sort(1).values)
        keys = [key for part, _ in pieces for key in part.keys]
        assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("size", "sizes"), [(8, [4, 4]), (9, [3, 3, 3]), (5, [3, 2]), (1, [1])])
def test_a_sweep_reads_all_and_leaves_no_crumb(size: int, sizes: list[int]) -> None:
    samples = Samples(torch.arange(float(size))[:, None], torch.zeros(size))
    batch, found, keys = sweep(Reader(samples), 4, 0)
    assert found == sizes
    assert batch.x.flatten().tolist() == list(range(size))
    assert len(set(keys)) == len(sizes)
