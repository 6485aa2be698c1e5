"""A graph on which listeners draw their teachers: every peer hears another number of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.ledger import Ledger
from mmkd.topology import Topology

NEIGHBOURS = {0: [], 1: [0], 2: [0, 1], 3: [0, 1, 5], 4: [0, 1, 2, 3], 5: [0, 1, 2, 3, 4]}


class Stairs(Topology):
    """Peer k hears k others."""

    def adjacency(self, peers: Sequence[str], round: int) -> Tensor:
        adjacency = torch.zeros(len(peers), len(peers), dtype=torch.bool)
        for k, heard in NEIGHBOURS.items():
            adjacency[k, heard] = True
        return adjacency


def assert_drawn_and_paid(
    heard: Tensor, teachers: int | None, names: Sequence[str], ledger: Ledger, payload: int
) -> None:
    """A listener with n neighbours hears min(n, teachers) of them an exchange, each for one payload.

    Args:
        heard: who heard whom, ``[exchanges, listeners, speakers]``.
        teachers: how many a listener draws; all, if ``None``.
        names: of the peers.
        ledger: of what was sent.
        payload: bytes of what one says.
    """
    times, degrees = heard.sum(0), torch.tensor([len(others) for others in NEIGHBOURS.values()])
    assert torch.equal(heard.sum(-1), degrees.clamp(max=teachers or 5).expand(len(heard), -1))
    assert not times[~Stairs().adjacency(names, 0)].any()
    edges = {(names[j], names[k]): int(times[k, j]) * payload for k, j in times.nonzero().tolist()}
    assert {(e.sender, e.receiver): e.bytes for e in ledger.entries() if e.kind == "logits"} == edges
