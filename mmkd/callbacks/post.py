"""One exchange: who speaks to whom, through a hub or not, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmkd.ledger import Ledger
from mmkd.topology import Topology
from mmkd.transport import Transport
from mmkd.transport.codec import size
from mmkd.types import Payload, PeerName

Tensors = Mapping[str, Tensor]


class Post:
    """Delivers what everybody says, and writes the bytes down.

    Args:
        transport: carries the payloads.
        ledger: counts them.
    """

    def __init__(self, transport: Transport, ledger: Ledger) -> None:
        self._transport, self.ledger = transport, ledger

    def gather(
        self,
        kind: str,
        round: int,
        spoken: Mapping[PeerName, Tensors],
        topology: Topology,
        everybody: Sequence[PeerName],
        peers: Sequence[PeerName],
    ) -> tuple[dict[str, Payload], Tensor]:
        """Everybody speaks.

        Args:
            kind: of the payloads.
            round: the round.
            spoken: what each speaker says.
            topology: who hears whom, among everybody: a graph does not change its shape because
                somebody sits out.
            everybody: all the peers of the graph.
            peers: those who take part now, speaking or not.

        Returns:
            payloads by sender, and the adjacency of ``peers``. With a hub, the payloads have reached
            the hub and nobody else: see ``spread``.
        """
        places = torch.tensor([everybody.index(peer) for peer in peers])
        adjacency = topology.adjacency(everybody, round)[places][:, places]
        outbox = {name: Payload(name, kind, round, tensors) for name, tensors in spoken.items()}
        inbox = self._transport.deliver(outbox, set(peers))
        for column, sender in enumerate(peers):
            if sender not in outbox:
                continue
            payload = outbox[sender]
            receivers = (
                [topology.hub]
                if topology.hub is not None
                else [peers[row] for row in torch.nonzero(adjacency[:, column]).flatten().tolist()]
            )
            self._write(payload, receivers)
        return inbox, adjacency

    def spread(self, kind: str, round: int, answer: Tensors, receivers: Sequence[PeerName], hub: str) -> None:
        """The hub tells all receivers the same."""
        self._write(Payload(hub, kind, round, answer), receivers)

    def _write(self, payload: Payload, receivers: Sequence[str]) -> None:
        if receivers:
            nbytes, extra = size(payload)
            for receiver in receivers:
                self.ledger.send(payload.round, payload.sender, receiver, payload.kind, nbytes, extra)
