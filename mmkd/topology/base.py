"""Topologies: who hears whom in round t.

``adjacency[k, j]`` says that peer k hears peer j; the diagonal is False. A graph is defined on the
order in which peers are given (a ring closes from the last to the first), so give the same order
every time; random graphs depend on nothing but the seed, the round and the number of peers. A single
peer has no neighbours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmkd.functional.graph import Graph
from mmkd.types import ConfigError, PeerName


class Topology(ABC):
    """A rule that gives the directed graph of each round. A subclass writes ``adjacency``."""

    hub: str | None = None
    """The name of the hub through which all messages pass; None where peers send to each other."""

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

    def sparse(self, peers: Sequence[PeerName], round: int) -> Graph:
        """The graph of that round, by its edges.

        Raises:
            ConfigError: the graph has no meaning for these peers, or ``adjacency`` is no graph of them.
        """
        heard, size = self.adjacency(peers, round), len(peers)
        if heard.shape != (size, size) or heard.dtype != torch.bool or bool(heard.diagonal().any()):
            raise ConfigError(
                f"{type(self).__name__}.adjacency gave {heard.dtype} {list(heard.shape)} for {size} peers;"
                f" give a bool matrix [{size}, {size}] whose diagonal is False"
            )
        return Graph.of(heard)

    def within(self, present: Sequence[PeerName], peers: Sequence[PeerName], round: int) -> Graph:
        """The graph of all ``peers`` without those that are absent: no edge is added in their place."""
        whole = self.sparse(peers, round)
        if len(present) == len(peers):
            return whole
        place = {peer: i for i, peer in enumerate(peers)}
        return whole.among(torch.tensor([place[peer] for peer in present], dtype=torch.long))

    def complete(self, peers: Sequence[PeerName]) -> bool:
        """Whether everybody hears everybody in every round, through a hub or not."""
        return self.hub is not None or (self.fixed and self.sparse(peers, 0).complete)

    def check(self, peers: Sequence[PeerName]) -> None:
        """Refuse names that none of the cohort's ``peers`` has, in a graph that names peers.

        ``adjacency`` ignores names that it is not given: some peers may sit out, or form no cluster.

        Raises:
            ConfigError: the graph names somebody else.
        """
        return

    def edges(self, peers: Sequence[PeerName], round: int) -> list[tuple[str, str]]:
        """The directed edges (sender, receiver) that payloads cross in that round, ordered by sender.

        With a hub, payloads go from each peer to the hub and from the hub to each peer.
        """
        if self.hub is not None:
            return [(peer, self.hub) for peer in peers] + [(self.hub, peer) for peer in peers]
        listeners, speakers = self.sparse(peers, round).edges.tolist()
        return [(peers[j], peers[k]) for j, k in sorted(zip(speakers, listeners, strict=True))]


class Listed(Topology):
    """A topology that lists the edges of its graph, so that a sparse graph is never a matrix."""

    directed: bool = False
    """Whether a pair (sender, receiver) is one edge; else both hear each other."""

    @abstractmethod
    def pairs(self, peers: Sequence[PeerName], round: int) -> Int[Tensor, "edges 2"]:
        """Senders and receivers, in any order; loops are left out.

        Raises:
            ConfigError: the graph has no meaning for these peers.
        """

    def sparse(self, peers: Sequence[PeerName], round: int) -> Graph:
        """The graph of the pairs."""
        return Graph.from_pairs(count(peers), self.pairs(peers, round), directed=self.directed)

    def adjacency(self, peers: Sequence[PeerName], round: int) -> Bool[Tensor, "peers peers"]:
        """The graph of the pairs, as a matrix."""
        return self.sparse(peers, round).dense()


def count(peers: Sequence[PeerName]) -> int:
    """Number of the peers given.

    Raises:
        ConfigError: there are none.
    """
    if not peers:
        raise ConfigError("a topology needs peers, and there are none; add a fleet")
    return len(peers)


def pairs_of(edges: Iterable[tuple[int, int]]) -> Int[Tensor, "edges 2"]:
    """Pairs as a tensor."""
    return torch.tensor(list(edges), dtype=torch.long).reshape(-1, 2)
