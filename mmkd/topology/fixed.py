"""Topologies without chance: complete, star, ring, islands, graphs from files, one-peer exponential."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmkd.bounds import Count, bounded
from mmkd.configuration import text_of
from mmkd.functional.graph import Graph
from mmkd.topology.base import Listed, Topology, count, pairs_of
from mmkd.types import ConfigError, PeerName


@dataclass
class Complete(Topology):
    """Everybody hears everybody."""

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """The complete graph as a matrix: all but the diagonal."""
        return self.sparse(peers, round).dense()

    def sparse(self, peers: Sequence[PeerName], round: int) -> Graph:
        """The complete graph, whose edges are never listed."""
        return Graph(count(peers), None)

    def complete(self, peers: Sequence[PeerName]) -> bool:
        """Always true."""
        return True


@dataclass
class Star(Complete):
    """Everybody hears everybody through a hub."""

    hub: str | None = "hub"

    def check(self, peers: Sequence[PeerName]) -> None:
        """Refuse a hub that has the name of a peer."""
        if self.hub in peers:
            raise ConfigError(f"the hub and a peer are both called '{self.hub}'; give the hub another name")

    def sparse(self, peers: Sequence[PeerName], round: int) -> Graph:
        """The complete graph; what is said passes through the hub."""
        self.check(peers)
        return super().sparse(peers, round)


@dataclass
class Ring(Listed):
    """Each peer hears the one before it and the one after it; the first and the last are neighbours."""

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """Peer k is paired with k + 1, and the last peer with the first."""
        size = count(peers)
        return pairs_of((k, (k + 1) % size) for k in range(size))


@dataclass
class Path(Listed):
    """Each peer hears the one before it and the one after it; the first and the last have one neighbour."""

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """Peer k is paired with k + 1."""
        size = count(peers)
        return pairs_of((k, k + 1) for k in range(size - 1))


@bounded
@dataclass
class DirectedCycle(Listed):
    """Each peer hears only the one that comes ``step`` positions before it.

    Args:
        step: coprime to the number of peers, else there would be several cycles.
    """

    step: Count = 1
    directed = True

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """Peer k hears k - step."""
        size = count(peers)
        cycles = gcd(self.step, size)
        if cycles > 1:
            raise ConfigError(
                f"steps of {self.step} around {size} peers make {cycles} cycles;"
                f" choose a step coprime to {size}"
            )
        return pairs_of((k, (k + self.step) % size) for k in range(size))


@dataclass
class Hypercube(Listed):
    """Peers are the corners of a cube of log2(peers) dimensions and hear along its edges."""

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """Peer k hears those whose position differs in one bit."""
        size = count(peers)
        if size & (size - 1):
            raise ConfigError(f"a hypercube needs 1, 2, 4, 8, ... peers, and there are {size}")
        bits = range(size.bit_length() - 1)
        return pairs_of((k, k ^ (1 << bit)) for k in range(size) for bit in bits)


@bounded
@dataclass
class Islands(Listed):
    """Clusters of peers; everybody hears everybody in its own cluster, and nobody in another.

    Args:
        among: the peers of each island by its name; ``cameras`` stands for ``cameras/0``, ``cameras/1``, ...
        count: instead, this many islands of consecutive peers, whose sizes differ by at most one.
    """

    among: dict[str, list[PeerName]] | None = None
    count: Count | None = None

    def __post_init__(self) -> None:
        if (self.among is None) == (self.count is None):
            raise ConfigError("islands need either 'among' (named clusters) or 'count', and not both")

    def check(self, peers: Sequence[PeerName]) -> None:
        """Refuse names that no peer has."""
        for island, names in (self.among or {}).items():
            for name in names:
                if not any(_belongs(peer, name) for peer in peers):
                    raise ConfigError(
                        f"island '{island}' names '{name}', which is no peer (there are {', '.join(peers)})"
                    )

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """All pairs of peers on the same island."""
        size = count(peers)
        homes = torch.tensor([self._home(peer, k, size) for k, peer in enumerate(peers)])
        islands = [(homes == home).nonzero()[:, 0] for home in homes.unique()]
        return torch.cat([torch.cartesian_prod(island, island).view(-1, 2) for island in islands])

    def _home(self, peer: PeerName, position: int, size: int) -> int:
        if self.count is not None:
            if self.count > size:
                raise ConfigError(f"{size} peers cannot make {self.count} islands")
            return position * self.count // size
        among = self.among or {}
        homes = [i for i, names in enumerate(among.values()) if any(_belongs(peer, name) for name in names)]
        if len(homes) != 1:
            raise ConfigError(f"peer '{peer}' must be on one island, and it is on {len(homes)}")
        return homes[0]


def _belongs(peer: PeerName, name: str) -> bool:
    return peer == name or peer.startswith(f"{name}/")


@dataclass
class EdgeList(Listed):
    """A graph from a text file: two peer names a line, sender then receiver; ``#`` starts a comment.

    Args:
        path: the file.
        directed: whether the receiver stays unheard by the sender.
    """

    path: str
    directed: bool = False

    @cached_property
    def _pairs(self) -> list[tuple[int, str, str]]:
        pairs = []
        for number, line in enumerate(text_of(self.path).splitlines(), 1):
            names = line.split("#")[0].split()
            if not names:
                continue
            if len(names) != 2 or names[0] == names[1]:
                raise ConfigError(
                    f"{self.path}, line {number}: '{line.strip()}' is not the names of two different peers"
                )
            pairs.append((number, names[0], names[1]))
        return pairs

    def check(self, peers: Sequence[PeerName]) -> None:
        """Refuse names that no peer has."""
        for number, *names in self._pairs:
            for name in names:
                if name not in peers:
                    raise ConfigError(
                        f"{self.path}, line {number}: '{name}' is no peer (there are {', '.join(peers)})"
                    )

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """The edges between the peers given."""
        position = {peer: k for k, peer in enumerate(peers)}
        edges = [(position[a], position[b]) for _, a, b in self._pairs if a in position and b in position]
        return pairs_of(edges)


@dataclass
class NetworkX(Listed):
    """Any networkx graph, whose nodes in their order stand for the peers in theirs.

    Args:
        graph: a networkx graph (of a directed one, edges lead from sender to receiver), or the name
            of a networkx generator such as ``petersen_graph``.
        arguments: what the generator takes.
    """

    graph: Any
    arguments: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def _built(self) -> tuple[int, tuple[tuple[int, int], ...], bool]:
        import networkx as nx

        graph = self.graph
        if isinstance(graph, str):
            make = getattr(nx, graph, None)
            if not callable(make):
                raise ConfigError(f"networkx has no graph generator '{graph}'")
            try:
                graph = make(**self.arguments)
            except (TypeError, nx.NetworkXException) as error:
                raise ConfigError(f"networkx.{self.graph} refuses {self.arguments}: {error}") from error
        if not isinstance(graph, nx.Graph):
            raise ConfigError(f"'{self.graph}' is no networkx graph, nor the name of a generator of one")
        position = {node: k for k, node in enumerate(graph)}
        edges = tuple((position[a], position[b]) for a, b in graph.edges())
        return len(graph), edges, graph.is_directed()

    def sparse(self, peers: Sequence[PeerName], round: int) -> Graph:
        """The graph of its edges, which lead one way if it is directed."""
        return Graph.from_pairs(count(peers), self.pairs(peers, round), directed=self._built[2])

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """The graph's edges."""
        size, edges, _ = self._built
        if size != count(peers):
            raise ConfigError(f"the networkx graph has {size} nodes, and there are {len(peers)} peers")
        return pairs_of(edges)


@dataclass
class OnePeerExponential(Listed):
    """Each hears the peer 1, 2, 4, ... positions before it in turn (Assran et al. 2019; Ying et al. 2021).

    With a power of two peers that average what they hear, ceil(log2(peers)) rounds reach the exact mean.
    """

    directed = True

    @property
    def fixed(self) -> bool:
        """Never: the graph changes from round to round, in a fixed order."""
        return False

    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """Peer k hears k - 2^(round mod ceil(log2 peers))."""
        size = count(peers)
        hop = 1 << round % max(1, (size - 1).bit_length())
        return pairs_of((k, (k + hop) % size) for k in range(size))
