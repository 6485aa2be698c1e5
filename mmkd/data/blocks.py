"""Batches of peers, a block of local steps at a time: a pure function of seed, peer id and local step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, groupby, zip_longest
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path, tree_map
from torch.utils.data import Dataset

from mmkd.data.augmenting import augmented, augmented_public
from mmkd.data.base import PeerData
from mmkd.data.padding import of_one_length
from mmkd.data.reader import Reader
from mmkd.functional.random import generator, key, key_of_step
from mmkd.schedule import Timetable
from mmkd.types import Batch, Batches, Block, PeerName, Public, Step, Target, Views

Share: TypeAlias = float | Tensor
"""Of a part of a batch: one number, or ``[peers]``."""
_Taken: TypeAlias = tuple[Any, Tensor, Tensor, Tensor | None]


class Order:
    """The order of a peer's samples: each pass over its data is another permutation, keyed by its number."""

    def __init__(self, seed: int, owner: str, size: int, batch_size: int, steps_per_epoch: int) -> None:
        self._stream = (seed, owner)
        self._size, self._batch, self._steps = size, batch_size, steps_per_epoch
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.long)

    def __call__(self, steps: range) -> tuple[Int[Tensor, " samples"], list[int]]:
        """Positions of the samples of consecutive local steps, and how many each step reads."""
        parts, sizes, step = [], list[int](), steps.start
        while step < steps.stop:
            epoch, first = divmod(step, self._steps)
            if epoch != self._epoch:
                stream = generator(self._stream[0], "order", self._stream[1], epoch)
                self._epoch, self._permutation = epoch, torch.randperm(self._size, generator=stream)
            last = min(self._steps, first + steps.stop - step)
            parts.append(self._permutation[first * self._batch : last * self._batch])
            sizes += [self._batch] * (last - first - 1) + [
                min(self._batch, self._size - (last - 1) * self._batch)
            ]
            step += last - first
        return torch.cat(parts) if len(parts) > 1 else parts[0], sizes


class Reading(NamedTuple):
    """A peer's batches of consecutive steps: all samples as one batch, and size and key of each step."""

    batch: Batch
    sizes: list[int]
    keys: list[int]


class Positions(NamedTuple):
    """Positions of the samples that a peer reads in consecutive steps, and size and key of each step."""

    rows: Int[Tensor, " samples"]
    sizes: list[int]
    keys: list[int]


class PrivateBatches:
    """The batches of one peer by local step."""

    def __init__(self, data: PeerData, peer: PeerName) -> None:
        self.reader = data.reader(peer, "train")
        name = data.ids[peer]
        self._stream = key(data.seed, name, "private")
        size = len(self.reader)
        self._order = Order(data.seed, name, size, data.batch_size, data.steps_per_epoch(peer))

    def __getitem__(self, step: int) -> Batch:
        batch, _, keys = self.read(range(step, step + 1))
        return batch._replace(key=keys[0])

    def read(self, steps: range) -> Reading:
        """The batches of consecutive local steps, read at once, because many small reads cost more."""
        positions, sizes, keys = self.positions(steps)
        return Reading(self.reader.batch(positions, 0), sizes, keys)

    def positions(self, steps: range) -> Positions:
        """Positions of the samples of consecutive local steps, without reading them."""
        positions, sizes = self._order(steps)
        return Positions(positions, sizes, [key_of_step(self._stream, step) for step in steps])


def sweep(reader: Reader, batch_size: int, stream: int) -> Reading:
    """All samples once, in their order and in batches of nearly equal size.

    With equal sizes no last batch has a single sample, which batch normalisation cannot take.
    """
    size = len(reader)
    sizes = [len(part) for part in torch.arange(size).tensor_split(-(-size // batch_size))]
    keys = [key_of_step(stream, i) for i in range(len(sizes))]
    return Reading(reader.batch(torch.arange(size), 0), sizes, keys)


class FleetSamples:
    """Samples of many peers as one tensor, from which the batches of all are gathered at once.

    Args:
        readers: of each peer, whose samples are held in memory and of equal shape.
    """

    def __init__(self, readers: Mapping[PeerName, Reader]) -> None:
        held = [cast(Any, reader.held) for reader in readers.values()]
        self._x = tree_map(lambda *parts: torch.cat(parts), *(s.x for s in held))
        self._ids = torch.cat([s.ids for s in held])
        self._y = torch.cat([cast(Tensor, reader.y) for reader in readers.values()])
        self._labelled: Tensor | None = None
        if any(reader.labelled is not None for reader in readers.values()):
            self._labelled = torch.cat([_labelled(r.labelled, len(r)) for r in readers.values()])
        ends = accumulate(map(len, readers.values()), initial=0)
        self._starts = dict(zip(readers, ends, strict=False))

    @classmethod
    def of(cls, readers: Mapping[PeerName, Reader]) -> FleetSamples | None:
        """Samples of all peers as one tensor, if they are in memory and of equal shape; else None."""
        held = [reader.held for reader in readers.values()]
        if len(readers) < 2 or any(samples is None for samples in held):
            return None
        kinds = {
            (_shape(s.x), s.ids.dtype, r.y.shape[1:], r.y.dtype)
            for r, s in zip(readers.values(), held, strict=True)
            if s is not None and r.y is not None
        }
        return cls(readers) if len(kinds) == 1 else None

    def side_by_side(self, places: Mapping[PeerName, Positions]) -> list[list[Batches]]:
        """For every step the batches of all peers, those of equal size stacked."""

        def take(members: list[PeerName], cuts: list[slice], length: int) -> _Taken:
            rows = torch.stack([places[p].rows[c] for p, c in zip(members, cuts, strict=True)])
            rows += torch.tensor([self._starts[peer] for peer in members])[:, None]
            rows = rows.unflatten(1, (length, -1)).transpose(0, 1)
            flat = rows.flatten()

            def pick(leaf: Tensor) -> Tensor:
                return leaf.index_select(0, flat).view(*rows.shape, *leaf.shape[1:])

            x = pick(self._x) if isinstance(self._x, Tensor) else tree_map(pick, self._x)
            labelled = None if self._labelled is None else pick(self._labelled)
            return x, pick(self._y), pick(self._ids), labelled

        return _by_steps(places, dict.fromkeys(places), take)


def side_by_side(readings: Mapping[PeerName, Reading]) -> list[list[Batches]]:
    """For every step the batches of all peers, those of equal shape stacked.

    Sequences are padded to one length, so that peers whose longest ones differ still train together.
    """
    views = of_one_length([reading.batch.x for reading in readings.values()])
    readings = {
        peer: r if x is r.batch.x else r._replace(batch=r.batch._replace(x=x))
        for (peer, r), x in zip(readings.items(), views, strict=True)
    }

    def take(members: list[PeerName], cuts: list[slice], length: int) -> _Taken:
        batches = [readings[peer].batch for peer in members]
        x, y, ids = (_stack([getattr(b, n) for b in batches], cuts, length) for n in ("x", "y", "ids"))
        labelled = None
        if any(b.labelled is not None for b in batches):
            labelled = _stack([_labelled(b.labelled, len(b.ids)) for b in batches], cuts, length)
        return x, y, ids, labelled

    def kind(batch: Batch) -> Any:
        return _shape(batch.x), None if batch.y is None else (batch.y.shape[1:], batch.y.dtype)

    return _by_steps(readings, {peer: kind(reading.batch) for peer, reading in readings.items()}, take)


def _by_steps(
    readings: Mapping[PeerName, Reading] | Mapping[PeerName, Positions],
    shapes: Mapping[PeerName, Any],
    take: Callable[[list[PeerName], list[slice], int], _Taken],
) -> list[list[Batches]]:
    """Batches of every step; steps in a row between which no batch size changes are gathered at once."""
    peers, steps = list(readings), list[list[Batches]]()
    starts = dict.fromkeys(peers, 0)
    for sizes, run in groupby(zip_longest(*(r.sizes for r in readings.values()), fillvalue=0)):
        first, length = len(steps), len(list(run))
        steps += [[] for _ in range(length)]
        kinds = list(zip(sizes, shapes.values(), strict=True))
        for kind in dict.fromkeys(kinds):
            size = kind[0]
            members = [peer for peer, other in zip(peers, kinds, strict=True) if other == kind and size]
            if not members:
                continue
            cuts = [slice(starts[peer], starts[peer] + length * size) for peer in members]
            x, y, ids, labelled = take(members, cuts, length)
            keys = zip(*(readings[peer].keys[first : first + length] for peer in members), strict=True)
            for i, key_ in enumerate(keys):
                here = tree_map(lambda t, i=i: t[i], x) if not isinstance(x, Tensor) else x[i]
                there = None if labelled is None else labelled[i]
                steps[first + i].append(Batches(members, here, y[i], ids[i], list(key_), labelled=there))
        for peer, size in zip(peers, sizes, strict=True):
            starts[peer] += length * size
    return steps


def _labelled(labelled: Tensor | None, size: int) -> Tensor:
    return torch.ones(size, dtype=torch.bool) if labelled is None else labelled


def _shape(x: Views) -> tuple[Any, ...]:
    return tuple((path, leaf.shape[1:], leaf.dtype) for path, leaf in tree_flatten_with_path(x)[0])


def _stack(trees: Sequence[Any], cuts: Sequence[slice], length: int) -> Any:
    """``[length, peers, batch, ...]``, so that the batches of one step lie together."""

    def stack(*leaves: Tensor) -> Tensor:
        cut = [leaf[where].unflatten(0, (length, -1)) for leaf, where in zip(leaves, cuts, strict=True)]
        return torch.stack(cut, 1)

    return stack(*trees) if isinstance(trees[0], Tensor) else tree_map(stack, *trees)


def some_peers(batches: Batches, places: list[int]) -> Batches:
    """The batches of the peers at ``places``."""
    x = tree_map(lambda leaf: leaf[places], batches.x)
    peers, keys = [batches.peers[i] for i in places], [batches.keys[i] for i in places]
    return Batches(peers, x, _of(batches.y, places), batches.ids[places], keys, *_taught(batches, places))


def slice_rows(batches: Batches, start: int, stop: int) -> Batches:
    """The batches of consecutive peers; views."""
    if start == 0 and stop >= len(batches.peers):
        return batches
    x = tree_map(lambda leaf: leaf[start:stop], batches.x)
    peers, keys = batches.peers[start:stop], batches.keys[start:stop]
    here = slice(start, stop)
    return Batches(peers, x, _of(batches.y, here), batches.ids[here], keys, *_taught(batches, here))


def _of(tensor: Tensor | None, where: Any) -> Tensor | None:
    return None if tensor is None else tensor[where]


def _taught(batches: Batches, where: Any) -> tuple[Target | None, Tensor | None, Tensor | None]:
    """Targets of some peers' batches, the weights of their labels, and which samples have a label."""
    target = batches.target
    if target is not None:
        target = Target(target.values[where], target.weight[where])
    return target, _of(batches.keep, where), _of(batches.labelled, where)


def cut(batches: Batches, parts: int) -> list[tuple[Batches, Share]]:
    """At most ``parts`` parts of every peer's batch, and the share of its loss that each has.

    That is its share of the samples; or of the labels, where some samples have none.
    """
    if parts == 1:
        return [(batches, 1.0)]
    size = batches.size
    pieces = []
    for i in range(min(parts, size)):
        x = tree_map(lambda leaf, i=i: leaf[:, i::parts], batches.x)
        keys = [key_of_step(key_, i) for key_ in batches.keys]
        here = (slice(None), slice(i, None, parts))
        target, _, labelled = _taught(batches._replace(keep=None), here)
        y, ids = _of(batches.y, here), batches.ids[here]
        piece = Batches(batches.peers, x, y, ids, keys, target, batches.keep, labelled)
        share: Share = piece.size / size
        if labelled is not None and batches.labelled is not None and target is None:
            share = labelled.sum(1).double() / batches.labelled.sum(1).clamp(min=1)
        pieces.append((piece, share))
    return pieces


class Blocks(Dataset[Block]):
    """Blocks of local steps of all peers, by number since training began.

    Args:
        data: holds the samples.
        timetable: says who steps when.
        fleets: peers whose batches may be stacked.
        public: whether steps read public samples, too.
    """

    def __init__(
        self, data: PeerData, timetable: Timetable, fleets: Sequence[Sequence[PeerName]], public: bool
    ) -> None:
        self._data, self._timetable, self._fleets = data, timetable, fleets
        self._private = {peer: PrivateBatches(data, peer) for peer in data.own}
        self._fleet_samples = [
            FleetSamples.of({peer: self._private[peer].reader for peer in fleet}) for fleet in fleets
        ]
        self._public = data.public_reader("train") if public else None
        if self._public is not None:
            size = len(self._public)
            batch = min(data.public_batch_size, size)
            self._order = Order(data.seed, "public\x1fall", size, batch, size // batch)

    def __getitem__(self, i: int) -> Block:
        ticks = self._timetable.block_ticks(i)
        private: list[list[Batches]] = [[] for _ in ticks]
        active = set(self._timetable.active(ticks[0]))  # within a round no further peer begins
        for fleet, samples in zip(self._fleets, self._fleet_samples, strict=True):
            steps = {p: self._timetable.local_steps(p, ticks) for p in fleet if p in active}
            if samples is not None:
                places = {peer: self._private[peer].positions(taken) for peer, taken in steps.items()}
                found = samples.side_by_side(places)
            else:
                found = side_by_side({p: self._private[p].read(taken) for p, taken in steps.items()})
            for tick, batches in zip(private, found, strict=False):
                tick += [augmented(b, self._data.peers[b.peers[0]], self._data.augment) for b in batches]
        return Block([self._step(tick, private[j]) for j, tick in enumerate(ticks)])

    def _step(self, tick: int, private: list[Batches]) -> Step:
        public, data = self._see(tick), self._data
        if public is None or not (data.augment and data.augment_public):
            return Step(tick, private, public)
        stream = key_of_step(key(data.seed, "public", "augmented"), tick)
        return Step(tick, private, public, augmented_public(public, stream, data.augment))

    def _see(self, tick: int) -> Public | None:
        if self._public is None:
            return None
        return self._public.batch(self._order(range(tick, tick + 1))[0])
