"""The contract of a topology, checked for several numbers of peers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmkd.testing.require import require
from mmkd.topology import Topology
from mmkd.types import ConfigError


def check_topology(topology: Topology, sizes: Sequence[int] = (2, 3, 4, 6, 8, 9, 12, 16)) -> None:
    """Check a graph for peers of some numbers; it may refuse some of them, but not all.

    Nobody hears itself; the same round is the same graph every time; a graph that is said to be fixed is the
    same in every round; its edges are those of its matrix.

    Raises:
        AssertionError: one of these does not hold; the message says which.
    """
    name, drawn = type(topology).__name__, 0
    for size in sizes:
        peers = [f"peer/{i}" for i in range(size)]
        try:
            topology.check(peers)
            first = topology.adjacency(peers, 0)
        except ConfigError:
            continue
        drawn += 1
        require(
            first.shape == (size, size), f"{name}: {list(first.shape)} for {size} peers, not {[size, size]}"
        )
        require(first.dtype == torch.bool, f"{name}: a matrix of {first.dtype}; give bool")
        require(not bool(first.diagonal().any()), f"{name}: a peer hears itself; clear the diagonal")
        again = topology.adjacency(peers, 0)
        require(
            torch.equal(first, again), f"{name}: round 0 is another graph when asked again; key its draws"
        )
        if topology.fixed:
            later = topology.adjacency(peers, 1)
            require(torch.equal(first, later), f"{name} says that it is fixed, and round 1 is another graph")
        sparse = topology.sparse(peers, 0).dense()
        require(torch.equal(first, sparse), f"{name}: its edges are not those of its matrix")
        if topology.hub is None:
            edges = {(peers[j], peers[k]) for k, j in first.nonzero().tolist()}
            require(set(topology.edges(peers, 0)) == edges, f"{name}: edges lead from listener to speaker")
    require(drawn > 0, f"{name} refuses {', '.join(map(str, sizes))} peers; give sizes that it accepts")
