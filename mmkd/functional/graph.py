"""Directed graphs as lists of edges: a sparse graph of thousands costs its edges, not its pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmkd.functional.random import scores_of_step


class Neighbours(NamedTuple):
    """The speakers of each listener in ascending order, one a slot; who hears fewer leaves slots empty."""

    place: Int[Tensor, "listeners slots"]
    there: Bool[Tensor, "listeners slots"]


def neighbours(hears: Bool[Tensor, "listeners speakers"]) -> Neighbours:
    """Speakers of each listener of a dense graph; as many slots as the greatest needs, one at least."""
    return slots_of(hears.nonzero().T, len(hears))


def slots_of(edges: Int[Tensor, "2 edges"], listeners: int) -> Neighbours:
    """Speakers of each listener, from listeners and speakers ordered by listener and then by speaker."""
    listener, speaker = edges
    count = torch.bincount(listener, minlength=listeners)
    # Of a listener's speakers the first stands in slot 0, and edges are sorted by listener.
    slot = torch.arange(len(listener), device=edges.device) - (count.cumsum(0) - count)[listener]
    slots = max(1, int(count.max())) if listeners else 1
    place = torch.zeros(listeners, slots, dtype=torch.long, device=edges.device)
    place[listener, slot] = speaker
    return Neighbours(place, torch.arange(slots, device=edges.device) < count[:, None])


def rows_of(
    edges: Int[Tensor, "2 edges"], start: int, stop: int, speakers: int
) -> Bool[Tensor, "listeners speakers"]:
    """Rows of the dense matrix of edges: whom the listeners from ``start`` to ``stop`` hear."""
    rows = torch.zeros(stop - start, speakers, dtype=torch.bool)
    first, last = torch.searchsorted(edges[0].contiguous(), torch.tensor([start, stop])).tolist()
    listener, speaker = edges[:, first:last]
    rows[listener - start, speaker] = True
    return rows


def drawn_edges(
    edges: Int[Tensor, "2 edges"],
    listens: Int[Tensor, " listeners"],
    speaks: Int[Tensor, " speakers"],
    count: int,
    tick: int,
) -> Int[Tensor, "2 drawn"]:
    """At most ``count`` of the speakers that each listener hears, drawn for this tick.

    Args:
        edges: listeners and speakers, ordered by listener and then by speaker.
        listens: key of each listener.
        speaks: key of each speaker; a pair's random number is computed from both.
        count: how many.
        tick: at which they are drawn.
    """
    place, filled = slots_of(edges, len(listens))
    pairs = scores_of_step(listens[:, None] ^ speaks[place], tick)
    best = pairs.masked_fill(~filled, -1).topk(min(count, place.shape[1]), 1).indices
    kept = filled.gather(1, best)
    drawn = place.gather(1, best).masked_fill(~kept, len(speaks)).sort(1).values
    listener, slot = (drawn < len(speaks)).nonzero().unbind(1)
    return torch.stack([listener, drawn[listener, slot]])


@dataclass(frozen=True, eq=False)
class Graph:
    """Who hears whom among ``size`` peers, nobody itself.

    Args:
        size: number of peers.
        listed: listeners and speakers ``[2, edges]``, ordered by listener and then by speaker; None if
            everybody hears everybody: the edges of a hundred thousand peers would fill the memory.
    """

    size: int
    listed: Int[Tensor, "2 edges"] | None

    @classmethod
    def of(cls, adjacency: Bool[Tensor, "peers peers"]) -> Graph:
        """The graph of a dense matrix, whose row k says whom peer k hears."""
        return cls(len(adjacency), adjacency.nonzero().T.contiguous())

    @classmethod
    def from_pairs(cls, size: int, pairs: Int[Tensor, "edges 2"], *, directed: bool = True) -> Graph:
        """The graph of pairs (sender, receiver) in any order; loops and repetitions are left out."""
        sender, receiver = pairs.unbind(1)
        if not directed:
            sender, receiver = torch.cat([sender, receiver]), torch.cat([receiver, sender])
        apart = sender != receiver
        cells = torch.unique(receiver[apart] * size + sender[apart])
        return cls(size, torch.stack([cells // size, cells % size]) if size else cells.view(2, 0))

    @property
    def complete(self) -> bool:
        """Whether everybody hears everybody."""
        return self.count == self.size * (self.size - 1)

    @property
    def count(self) -> int:
        """Number of directed edges."""
        return self.size * (self.size - 1) if self.listed is None else self.listed.shape[1]

    @cached_property
    def edges(self) -> Int[Tensor, "2 edges"]:
        """Listeners and speakers, ``[2, edges]``, listed for the complete graph, too."""
        return self.dense().nonzero().T if self.listed is None else self.listed

    @cached_property
    def listeners_of(self) -> Int[Tensor, " peers"]:
        """How many hear each peer."""
        if self.listed is None:
            return torch.full((self.size,), self.size - 1)
        return torch.bincount(self.listed[1], minlength=self.size)

    @cached_property
    def heard_by(self) -> Int[Tensor, " peers"]:
        """How many each peer hears."""
        if self.listed is None:
            return torch.full((self.size,), self.size - 1)
        return torch.bincount(self.listed[0], minlength=self.size)

    @property
    def undirected(self) -> bool:
        """Whether everybody hears those who hear it."""
        if self.listed is None:
            return True
        listener, speaker = self.listed
        return torch.equal(listener * self.size + speaker, (speaker * self.size + listener).sort().values)

    def dense(self, start: int = 0, stop: int | None = None) -> Bool[Tensor, "listeners peers"]:
        """Rows of the matrix: whom the listeners from ``start`` to ``stop`` hear."""
        stop = self.size if stop is None else min(stop, self.size)
        if self.listed is not None:
            return rows_of(self.listed, start, stop, self.size)
        rows = torch.ones(stop - start, self.size, dtype=torch.bool)
        rows[torch.arange(stop - start), torch.arange(start, stop)] = False
        return rows

    def rows(self, listeners: Int[Tensor, " some"]) -> Bool[Tensor, "some peers"]:
        """Rows of the matrix of who hears whom, of some listeners."""
        if self.listed is None:
            rows = torch.ones(len(listeners), self.size, dtype=torch.bool)
            rows[torch.arange(len(listeners)), listeners] = False
            return rows
        new = torch.full((self.size,), -1)
        new[listeners] = torch.arange(len(listeners))
        row = new[self.listed[0]]
        rows = torch.zeros(len(listeners), self.size, dtype=torch.bool)
        rows[row[row >= 0], self.listed[1][row >= 0]] = True
        return rows

    @cached_property
    def around(self) -> Neighbours:
        """Each peer and those that it hears, in the order of the peers."""
        own = torch.arange(self.size).expand(2, -1)
        both = torch.cat([self.edges, own], 1)
        return slots_of(both[:, (both[0] * self.size + both[1]).argsort()], self.size)

    def among(self, places: Int[Tensor, " some"]) -> Graph:
        """The graph of some peers, given by their positions in ascending order."""
        if self.listed is None:
            return Graph(len(places), None)
        new = torch.full((self.size,), -1)
        new[places] = torch.arange(len(places))
        listener, speaker = new[self.listed]
        kept = (listener >= 0) & (speaker >= 0)
        return Graph(len(places), torch.stack([listener[kept], speaker[kept]]))

    def without(self, deaf: Int[Tensor, " some"]) -> Graph:
        """The same graph, except that the peers ``deaf`` hear nobody."""
        if not len(deaf):
            return self
        hears = torch.ones(self.size, dtype=torch.bool)
        hears[deaf] = False
        return Graph(self.size, self.edges[:, hears[self.edges[0]]])

    def hearing(self, speakers: Int[Tensor, " some"]) -> Graph:
        """The same graph, except that nobody hears any but the peers ``speakers``."""
        heard = torch.zeros(self.size, dtype=torch.bool)
        heard[speakers] = True
        return Graph(self.size, self.edges[:, heard[self.edges[1]]])
