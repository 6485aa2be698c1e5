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
from jaxtyping import Bool
from torch import Tensor

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


def count(peers: Sequence[PeerName]) -> int:
    """How many peers there are.

    Raises:
        ConfigError: there are none.
    """
    if not peers:
        raise ConfigError("a topology needs peers, and there are none; add a fleet")
    return len(peers)


def graph(
    size: int, edges: Iterable[tuple[int, int]], *, directed: bool = False
) -> Bool[Tensor, "peers peers"]:
    """The adjacency of edges (sender, receiver); loops are left out."""
    adjacency = torch.zeros(size, size, dtype=torch.bool)
    pairs = torch.tensor(list(edges), dtype=torch.long).reshape(-1, 2)
    adjacency[pairs[:, 1], pairs[:, 0]] = True
    if not directed:
        adjacency[pairs[:, 0], pairs[:, 1]] = True
    return adjacency.fill_diagonal_(False)
