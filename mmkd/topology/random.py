"""Topologies that are drawn at random, once or anew every few rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.bounds import Bound, Count, Share, Whole, bounded
from mmkd.functional.random import generator, key
from mmkd.topology.base import Listed, count, pairs_of
from mmkd.types import ConfigError, PeerName

ROWS = 1024
"""How many rows of the matrix of all pairs are drawn at a time."""


@bounded
@dataclass(kw_only=True)
class RandomGraph(Listed):
    """The base of topologies that are drawn at random.

    Args:
        seed: keys the draw.
        every: rounds between draws; one graph for good if left out.
    """

    seed: int = 0
    every: Count | None = None

    @property
    def fixed(self) -> bool:
        """Whether the graph is drawn once for all rounds."""
        return self.every is None

    def stream(self, round: int) -> int:
        """The key of the graph of that round."""
        draw = 0 if self.every is None else round // self.every
        return key(self.seed, "topology", type(self).__name__, draw)


@bounded
@dataclass
class RandomRegular(RandomGraph):
    """Each peer has ``degree`` neighbours, uniformly at random; 3 and more rarely leave several parts.

    Args:
        degree: below the number of peers; one of the two must be even.
        seed: keys the draw.
        every: rounds between draws; one graph for good if left out.
    """

    degree: Whole

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """Neighbours in the graph of that round."""
        size = count(peers)
        if self.degree >= size:
            raise ConfigError(f"degree {self.degree} is impossible with {size} peers; choose 0 to {size - 1}")
        if size * self.degree % 2:
            raise ConfigError(
                f"{size} peers cannot all have {self.degree} neighbours (an odd number of ends);"
                " make either of them even"
            )
        return pairs_of(_regular(size, self.degree, self.stream(round)))


@lru_cache(maxsize=16)
def _regular(size: int, degree: int, seed: int) -> tuple[tuple[int, int], ...]:
    import networkx as nx

    return tuple(nx.random_regular_graph(degree, size, seed=seed).edges())


@bounded
@dataclass
class ErdosRenyi(RandomGraph):
    """Each pair of peers is joined with ``probability``, independently; the graph may be disconnected.

    Args:
        probability: between 0 and 1.
        seed: keys the draw.
        every: rounds between draws; one graph for good if left out.
    """

    probability: Share

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """Neighbours in the graph of that round."""
        size = count(peers)
        stream, parts = generator(self.stream(round)), []
        for start in range(0, size, ROWS):  # all pairs at once could fill the memory
            draw = torch.rand(min(ROWS, size - start), size, generator=stream)
            parts.append((draw < self.probability).triu(1 + start).nonzero() + torch.tensor([start, 0]))
        return torch.cat(parts)


@bounded
@dataclass
class SmallWorld(RandomGraph):
    """A ring of nearest neighbours with some edges rewired, always connected (Watts & Strogatz 1998).

    Args:
        degree: nearest neighbours; even, at least 2 and below the number of peers.
        probability: of rewiring an edge.
        seed: keys the draw.
        every: rounds between draws; one graph for good if left out.
    """

    degree: Annotated[int, Bound(2)]
    probability: Share

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """Neighbours in the graph of that round."""
        size = count(peers)
        if self.degree % 2 or self.degree >= size:
            raise ConfigError(
                f"degree {self.degree} is impossible in a small world of {size} peers;"
                f" choose an even number from 2 to {size - 1}"
            )
        return pairs_of(_small_world(size, self.degree, self.probability, self.stream(round)))


@lru_cache(maxsize=16)
def _small_world(size: int, degree: int, probability: float, seed: int) -> tuple[tuple[int, int], ...]:
    import networkx as nx

    try:
        graph = nx.connected_watts_strogatz_graph(size, degree, probability, tries=100, seed=seed)
    except nx.NetworkXError as error:
        raise ConfigError(
            f"no connected small world of {size} peers came up in 100 draws; raise degree {degree}"
        ) from error
    return tuple(graph.edges())


@bounded
@dataclass(kw_only=True)
class RandomMatching(RandomGraph):
    """Each round pairs the peers at random; if their number is odd, one hears nobody.

    Args:
        seed: keys the draw.
        every: rounds between draws.
    """

    every: Count | None = 1

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """The random pairs of that round."""
        size = count(peers)
        order = torch.randperm(size, generator=generator(self.stream(round))).tolist()
        return pairs_of(zip(order[::2], order[1::2], strict=False))
