"""One exchange: who speaks to whom, through a hub or not, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Bool
from torch import Tensor

from mmkd.encoding.messages import size
from mmkd.ledger import Ledger
from mmkd.transport import Transport
from mmkd.types import Payload, PeerName

Tensors = Mapping[str, Tensor]
"""The tensors that one participant says to others, by name."""


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
        hears: Bool[Tensor, "listeners speakers"] | None,
        hub: str | None,
    ) -> dict[str, Payload]:
        """Everybody speaks.

        Args:
            kind: of the payloads.
            round: the round.
            spoken: what each speaker says.
            peers: those who take part now, speaking or not.
            hears: whom each of them hears; nothing is sent to who does not. Not needed where there is a hub.
            hub: what all is sent to instead, if there is one; see ``spread``.

        Returns:
            payloads by sender.
        """
        outbox = {name: Payload(name, kind, round, tensors) for name, tensors in spoken.items()}
        inbox = self._transport.deliver(outbox, set(peers))
        self.count(kind, round, {name: size(payload) for name, payload in outbox.items()}, peers, hears, hub)
        return inbox

    @property
    def at_hand(self) -> bool:
        """Whether what is said need not be handed over: everybody hears the very tensors."""
        return self._transport.at_hand

    def count(
        self,
        kind: str,
        round: int,
        sizes: Mapping[PeerName, tuple[int, int]],
        peers: Sequence[PeerName],
        hears: Bool[Tensor, "listeners speakers"] | None,
        hub: str | None,
    ) -> None:
        """Write down what was said: bytes and framing of each speaker's payload."""
        if hub is None:
            assert hears is not None
            self.ledger.broadcast(round, kind, peers, hears, [sizes.get(peer, (0, 0)) for peer in peers])
        else:
            self.ledger.relay(round, kind, list(sizes), [hub], list(sizes.values()))

    def spread(self, kind: str, round: int, answer: Tensors, receivers: Sequence[PeerName], hub: str) -> None:
        """The hub tells all receivers the same."""
        if receivers:
            nbytes = [size(Payload(hub, kind, round, answer))]
            self.ledger.relay(round, kind, [hub], receivers, nbytes)
