"""One exchange: who speaks to whom, through a hub or not, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Bool
from torch import Tensor

from mmkd.ledger import Ledger
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
        peers: Sequence[PeerName],
        hears: Bool[Tensor, "listeners speakers"],
        hub: str | None,
    ) -> dict[str, Payload]:
        """Everybody speaks.

        Args:
            kind: of the payloads.
            round: the round.
            spoken: what each speaker says.
            peers: those who take part now, speaking or not.
            hears: whom each of them hears; nothing is sent to who does not.
            hub: what all is sent to instead, if there is one; see ``spread``.

        Returns:
            payloads by sender.
        """
        outbox = {name: Payload(name, kind, round, tensors) for name, tensors in spoken.items()}
        inbox = self._transport.deliver(outbox, set(peers))
        if hub is None:
            sizes = [size(outbox[name]) if name in outbox else (0, 0) for name in peers]
            self.ledger.broadcast(round, kind, peers, hears, sizes)
        else:
            for payload in outbox.values():
                self._write(payload, [hub])
        return inbox

    def spread(self, kind: str, round: int, answer: Tensors, receivers: Sequence[PeerName], hub: str) -> None:
        """The hub tells all receivers the same."""
        self._write(Payload(hub, kind, round, answer), receivers)

    def _write(self, payload: Payload, receivers: Sequence[str]) -> None:
        if receivers:
            nbytes, extra = size(payload)
            for receiver in receivers:
                self.ledger.send(payload.round, payload.sender, receiver, payload.kind, nbytes, extra)
