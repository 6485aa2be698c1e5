"""Topologies: who hears whom in round t.

``adjacency[k, j]`` says that peer k hears peer j; the diagonal is False. A graph is defined on the
order in which peers are given (a ring closes from the last to the first), so give the same order
every time; random graphs depend on nothing but the seed, the round and the number of peers. A single
peer has no neighbours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import gcd
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from mmkd.functional.random import generator, key
from mmkd.types import ConfigError, PeerName


class Topology(ABC):
    """The directed graph of a round. A subclass writes ``adjacency``."""

    hub: str | None = None
    """A named participant without data or student that relays: all that is heard passes through it."""

    @property
    def fixed(self) -> bool:
        """Whether the graph is the same in every round."""
        return True

    @abstractmethod
    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Row k: whom peer k hears in that round.

        Raises:
            ConfigError: the graph has no meaning for these peers.
        """

    def within(
        self, present: Sequence[PeerName], peers: Sequence[PeerName], round: int
    ) -> Bool[Tensor, "present present"]:
        """Whom those of ``peers`` hear who are present: a graph keeps its shape when somebody sits out."""
        if list(present) == list(peers):
            return self.adjacency(peers, round)
        place = {peer: i for i, peer in enumerate(peers)}
        rows = torch.tensor([place[peer] for peer in present], dtype=torch.long)
        return self.adjacency(peers, round)[rows][:, rows]

    def complete(self, peers: Sequence[PeerName]) -> bool:
        """Whether all that is said reaches everybody in every round, through a hub or not."""
        if self.hub is not None:
            return True
        return self.fixed and int(self.adjacency(peers, 0).sum()) == len(peers) * (len(peers) - 1)

    def undirected(self, peers: Sequence[PeerName]) -> bool:
        """Whether who is heard hears, in round 0."""
        heard = self.adjacency(peers, 0)
        return torch.equal(heard, heard.T)

    def check(self, peers: Sequence[PeerName]) -> None:
        """Refuse names that none of the cohort's ``peers`` has, in a graph that names peers.

        ``adjacency`` ignores names that it is not given: some peers may sit out, or form no cluster.

        Raises:
            ConfigError: the graph names somebody else.
        """
        return

    def edges(self, peers: Sequence[PeerName], round: int) -> list[tuple[str, str]]:
        """The directed edges (sender, receiver) that payloads cross in that round.

        With a hub, payloads go from each peer to the hub and from the hub to each peer.
        """
        heard = self.adjacency(peers, round)
        if self.hub is not None:
            return [(peer, self.hub) for peer in peers] + [(self.hub, peer) for peer in peers]
        return [(peers[sender], peers[receiver]) for sender, receiver in heard.T.nonzero().tolist()]


def _count(peers: Sequence[PeerName]) -> int:
    if not peers:
        raise ConfigError("a topology needs peers, and there are none; add a fleet")
    return len(peers)


def _graph(
    size: int, edges: Iterable[tuple[int, int]], *, directed: bool = False
) -> Bool[Tensor, "peers peers"]:
    """The adjacency of edges (sender, receiver); loops are left out."""
    adjacency = torch.zeros(size, size, dtype=torch.bool)
    pairs = torch.tensor(list(edges), dtype=torch.long).reshape(-1, 2)
    adjacency[pairs[:, 1], pairs[:, 0]] = True
    if not directed:
        adjacency[pairs[:, 0], pairs[:, 1]] = True
    return adjacency.fill_diagonal_(False)


# --- fixed graphs ----------------------------------------------------------------------------------


@dataclass
class Complete(Topology):
    """Everybody hears everybody."""

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """All but the diagonal."""
        return ~torch.eye(_count(peers), dtype=torch.bool)

    def within(
        self, present: Sequence[PeerName], peers: Sequence[PeerName], round: int
    ) -> Bool[Tensor, "present present"]:
        """All of those who are present."""
        return ~torch.eye(len(present), dtype=torch.bool)

    def complete(self, peers: Sequence[PeerName]) -> bool:
        """Always; the matrix of a hundred thousand would take ten gigabytes to say so."""
        return True

    def undirected(self, peers: Sequence[PeerName]) -> bool:
        """Always."""
        return True


@dataclass
class Star(Complete):
    """Everybody hears everybody through a hub."""

    hub: str | None = "hub"

    def check(self, peers: Sequence[PeerName]) -> None:
        """Refuse a hub that is called like a peer."""
        if self.hub in peers:
            raise ConfigError(f"the hub and a peer are both called '{self.hub}'; give the hub another name")

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """All but the diagonal."""
        self.check(peers)
        return super().adjacency(peers, round)


@dataclass
class Ring(Topology):
    """Each hears the one before and the one after."""

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Neighbours k - 1 and k + 1, around the end."""
        size = _count(peers)
        return _graph(size, ((k, (k + 1) % size) for k in range(size)))


@dataclass
class Path(Topology):
    """A ring cut open: the first and the last have one neighbour."""

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Neighbours k - 1 and k + 1."""
        size = _count(peers)
        return _graph(size, ((k, k + 1) for k in range(size - 1)))


@dataclass
class DirectedCycle(Topology):
    """Each hears only the one that stands ``step`` places before it.

    Args:
        step: coprime to the number of peers, or there would be several cycles.
    """

    step: int = 1

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Peer k hears k - step."""
        size = _count(peers)
        cycles = gcd(self.step, size)
        if cycles > 1:
            raise ConfigError(
                f"steps of {self.step} around {size} peers make {cycles} cycles;"
                f" choose a step coprime to {size}"
            )
        return _graph(size, ((k, (k + self.step) % size) for k in range(size)), directed=True)


@dataclass
class Hypercube(Topology):
    """Peers are the corners of a cube of log2(peers) dimensions and hear along its edges."""

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Peer k hears those whose position differs in one bit."""
        size = _count(peers)
        if size & (size - 1):
            raise ConfigError(f"a hypercube needs 1, 2, 4, 8, ... peers, and there are {size}")
        bits = range(size.bit_length() - 1)
        return _graph(size, ((k, k ^ (1 << bit)) for k in range(size) for bit in bits))


@dataclass
class Islands(Topology):
    """Clusters, complete inside and silent to one another.

    Args:
        among: the peers of each island by its name; ``cameras`` stands for ``cameras/0``, ``cameras/1``, ...
        count: instead, this many islands of consecutive peers, whose sizes differ by at most one.
    """

    among: dict[str, list[PeerName]] | None = None
    count: int | None = None

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

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Those of the same island."""
        size = _count(peers)
        homes = torch.tensor([self._home(peer, k, size) for k, peer in enumerate(peers)])
        return (homes[:, None] == homes).fill_diagonal_(False)

    def _home(self, peer: PeerName, position: int, size: int) -> int:
        if self.count is not None:
            if not 1 <= self.count <= size:
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
class EdgeList(Topology):
    """A graph from a text file: two peer names a line, sender then receiver; ``#`` starts a comment.

    Args:
        path: the file.
        directed: whether the receiver stays unheard by the sender.
    """

    path: str
    directed: bool = False

    @cached_property
    def _pairs(self) -> list[tuple[int, str, str]]:
        try:
            with open(self.path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except OSError as error:
            raise ConfigError(f"cannot read the edge list '{self.path}': {error.strerror}") from error
        pairs = []
        for number, line in enumerate(lines, 1):
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

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """The edges between the peers given."""
        position = {peer: k for k, peer in enumerate(peers)}
        edges = [(position[a], position[b]) for _, a, b in self._pairs if a in position and b in position]
        return _graph(_count(peers), edges, directed=self.directed)


@dataclass
class NetworkX(Topology):
    """Any networkx graph, its nodes in their order being the peers in theirs.

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

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """The graph's edges."""
        size, edges, directed = self._built
        if size != _count(peers):
            raise ConfigError(f"the networkx graph has {size} nodes, and there are {len(peers)} peers")
        return _graph(size, edges, directed=directed)


# --- random graphs ---------------------------------------------------------------------------------


@dataclass(kw_only=True)
class RandomGraph(Topology):
    """The base of graphs that are drawn.

    Args:
        seed: keys the draw.
        every: rounds between draws; one graph for good if left out.
    """

    seed: int = 0
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ConfigError(f"a topology drawn every {self.every} rounds has no meaning; choose 1 or more")

    @property
    def fixed(self) -> bool:
        """Whether it is drawn once."""
        return self.every is None

    def stream(self, round: int) -> int:
        """The key of the graph of that round."""
        draw = 0 if self.every is None else round // self.every
        return key(self.seed, "topology", type(self).__name__, draw)


@dataclass
class RandomRegular(RandomGraph):
    """Each has ``degree`` neighbours, uniformly at random. Degrees of 3 and more rarely disconnect.

    Args:
        degree: below the number of peers; one of the two must be even.
        seed: keys the draw.
        every: rounds between draws; one graph for good if left out.
    """

    degree: int

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Neighbours in the graph of that round."""
        size = _count(peers)
        if not 0 <= self.degree < size:
            raise ConfigError(f"degree {self.degree} is impossible with {size} peers; choose 0 to {size - 1}")
        if size * self.degree % 2:
            raise ConfigError(
                f"{size} peers cannot all have {self.degree} neighbours (an odd number of ends);"
                " make either of them even"
            )
        return _graph(size, _regular(size, self.degree, self.stream(round)))


@lru_cache(maxsize=16)
def _regular(size: int, degree: int, seed: int) -> tuple[tuple[int, int], ...]:
    import networkx as nx

    return tuple(nx.random_regular_graph(degree, size, seed=seed).edges())


@dataclass
class ErdosRenyi(RandomGraph):
    """Each pair is joined with ``probability``, independently; the graph may be disconnected.

    Args:
        probability: between 0 and 1.
        seed: keys the draw.
        every: rounds between draws; one graph for good if left out.
    """

    probability: float

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Neighbours in the graph of that round."""
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"probability is {self.probability}; it must lie in [0, 1]")
        size = _count(peers)
        draw = torch.rand(size, size, generator=generator(self.stream(round)))
        joined = (draw < self.probability).triu(1)
        return joined | joined.T


@dataclass
class SmallWorld(RandomGraph):
    """A ring of nearest neighbours, some edges rewired; connected (Watts & Strogatz 1998).

    Args:
        degree: nearest neighbours; even, at least 2 and below the number of peers.
        probability: of rewiring an edge.
        seed: keys the draw.
        every: rounds between draws; one graph for good if left out.
    """

    degree: int
    probability: float

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Neighbours in the graph of that round."""
        size = _count(peers)
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"probability is {self.probability}; it must lie in [0, 1]")
        if self.degree < 2 or self.degree % 2 or self.degree >= size:
            raise ConfigError(
                f"degree {self.degree} is impossible in a small world of {size} peers;"
                f" choose an even number from 2 to {size - 1}"
            )
        return _graph(size, _small_world(size, self.degree, self.probability, self.stream(round)))


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


# --- graphs that change with the round -------------------------------------------------------------


@dataclass(kw_only=True)
class RandomMatching(RandomGraph):
    """Each round pairs the peers at random; of an odd number, one hears nobody.

    Args:
        seed: keys the draw.
        every: rounds between draws.
    """

    every: int | None = 1

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """The partner of that round."""
        size = _count(peers)
        order = torch.randperm(size, generator=generator(self.stream(round))).tolist()
        return _graph(size, zip(order[::2], order[1::2], strict=False))


@dataclass
class OnePeerExponential(Topology):
    """Each hears one peer, 1, 2, 4, ... places before it in turn (Assran et al. 2019; Ying et al. 2021).

    With a power of two peers that average what they hear, ceil(log2(peers)) rounds reach the exact mean.
    """

    @property
    def fixed(self) -> bool:
        """It turns."""
        return False

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """Peer k hears k - 2^(round mod ceil(log2 peers))."""
        size = _count(peers)
        hop = 1 << round % max(1, (size - 1).bit_length())
        return _graph(size, ((k, (k + hop) % size) for k in range(size)), directed=True)
