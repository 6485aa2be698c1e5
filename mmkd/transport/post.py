"""Letters between processes: sent once to each that hears, kept for a while, and looked at as they arrive."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from mmkd.encoding.messages import encode
from mmkd.transport.base import Mail
from mmkd.transport.company import Company
from mmkd.transport.facts import lives_here
from mmkd.transport.introduction import Introduction
from mmkd.transport.letters import ROOT, TO, Address, Exchange, Slip, address, key
from mmkd.transport.mailbox import Letter, Mailbox
from mmkd.transport.newest import Newest
from mmkd.types import PeerName

KEPT = 4
"""How many exchanges a process keeps what it has sent, for those who ask again."""
PATIENCE = 1.0
"""Seconds in which what is asked for again arrives."""


class Sent(NamedTuple):
    """A letter as it was sent."""

    key: str
    slip: bytes
    encoded: bytes


class Post:
    """Sends what participants of this process say, and puts what arrives into a mailbox.

    Args:
        session: of Zenoh.
        study: that all processes share.
        own: this process.
        company: the other processes.
        everybody: all peers.
        mailbox: for what arrives.
        largest: bytes of the largest message that is read.
        drop: called with process, reason and detail of a letter that is dropped.
    """

    def __init__(
        self,
        session: Any,
        study: str,
        own: Introduction,
        company: Company,
        everybody: Collection[PeerName],
        mailbox: Mailbox | Newest,
        largest: int,
        drop: Callable[[str, str, str], None],
    ) -> None:
        from zenoh import CongestionControl, ConsolidationMode

        self._session, self._study, self._own, self._company = session, study, own, company
        self._everybody, self._mailbox, self._largest, self._drop = everybody, mailbox, largest, drop
        self._waits, self._every = CongestionControl.BLOCK, ConsolidationMode.NONE
        self._sent: OrderedDict[Exchange, dict[str, list[Sent]]] = OrderedDict()
        self.bytes = Counter[str]()
        """Bytes of messages that were sent to other processes, by kind."""
        self._declared = [
            session.declare_subscriber(f"{ROOT}/{study}/*/**{TO}{own.process}", self._arrives),
            session.declare_queryable(f"{ROOT}/{study}/again/{own.process}/{own.instance}", self._repeat),
        ]

    def send(self, mail: Mail, exchange: Exchange) -> None:
        """Send each message once to each process where somebody gets it, and tell all how many there are."""
        others = self._company.others
        bags: dict[str, list[tuple[str, bytes, tuple[str, ...]]]] = {process: [] for process in others}
        for sender, encoded, receivers in messages(mail):
            for process, names in self._sorted(receivers).items():
                bags[process].append((sender, encoded, tuple(names)))
        out: dict[str, list[Sent]] = {}
        for process, bag in bags.items():
            rows = bag or [(self._own.process, b"", ())]
            out[process] = [
                Sent(
                    key(self._study, Address(mail.round, sender, mail.kind, process)),
                    Slip(
                        self._own.instance, exchange.number, place, len(bag), receivers, mail.about
                    ).encode(),
                    encoded,
                )
                for place, (sender, encoded, receivers) in enumerate(rows)
            ]
        self._sent[exchange] = out
        while len(self._sent) > KEPT:
            self._sent.popitem(last=False)
        for letters in out.values():
            for sent in letters:
                self.bytes[mail.kind] += len(sent.encoded)
                self._session.put(
                    sent.key, sent.encoded, attachment=sent.slip, congestion_control=self._waits
                )

    def ask_again(self, process: str, exchange: Exchange) -> None:
        """Ask a process for its letters of an exchange, which arrive while others are asked."""
        other = self._company.others[process]
        asked = f"{ROOT}/{self._study}/again/{process}/{other.instance}"
        body = "\n".join([exchange.kind, str(exchange.round), str(exchange.number), self._own.process])
        # Answers have one key, of which Zenoh would otherwise keep one.
        self._session.get(asked, self._answered, payload=body, timeout=PATIENCE, consolidation=self._every)

    def _sorted(self, receivers: Sequence[str]) -> dict[str, list[str]]:
        """Receivers in other processes, by process."""
        found: dict[str, list[str]] = {}
        for name in receivers:
            for process, other in self._company.others.items():
                if lives_here(name, other.peers, self._everybody, hosts=other.hosts):
                    found.setdefault(process, []).append(name)
        return found

    # --- in threads of the network -------------------------------------------------------------------

    def _arrives(self, sample: Any) -> None:
        self._look(str(sample.key_expr), bytes(sample.attachment or b""), bytes(sample.payload))

    def _answered(self, reply: Any) -> None:
        if reply.ok is not None:
            text, _, slip = bytes(reply.ok.attachment or b"").partition(b"\n")
            self._look(text.decode(errors="replace"), slip, bytes(reply.ok.payload))

    def _look(self, text: str, note: bytes, encoded: bytes) -> None:
        """Put a letter into the mailbox if it is of a process of this network, and from whom it says."""
        try:
            to, slip = address(self._study, text), Slip.decode(note)
        except ValueError as error:
            self._drop("", "unreadable", str(error))
            return
        other = self._company.of(slip.instance)
        if other is None or to.process != self._own.process:
            self._drop("", "stranger", f"'{to.sender}' is in no process of this network")
        elif not lives_here(to.sender, other.peers, self._everybody, hosts=other.hosts):
            self._drop(other.process, "sender", f"'{to.sender}' is not in that process")
        elif len(encoded) > self._largest or (slip.of == 0) != (not encoded):
            self._drop(other.process, "size", f"{len(encoded)} bytes")
        else:
            exchange = Exchange(to.kind, to.round, slip.number)
            reason = self._mailbox.put(other.process, exchange, Letter(encoded, slip, to.round))
            if reason is not None:
                self._drop(other.process, reason, f"it is of '{to.kind}' in round {to.round}")

    def _repeat(self, query: Any) -> None:
        """Send letters of an exchange to a process that lacks some, if they are still known."""
        with query:
            try:
                kind, round_, number, process = bytes(query.payload).decode().split("\n")
                found = self._sent.get(Exchange(kind, int(round_), int(number)), {}).get(process, [])
            except (TypeError, ValueError):
                return
            for sent in found:
                query.reply(query.key_expr, sent.encoded, attachment=f"{sent.key}\n".encode() + sent.slip)


def messages(mail: Mail) -> Iterator[tuple[str, bytes, list[str]]]:
    """Sender, encoded message and receivers of each row that somebody gets."""
    for stack in mail.stacks:
        ways = None
        if stack.edges is not None:
            ways = [list[str]() for _ in stack.senders]
            for place, row in stack.edges.T.tolist():
                ways[row].append(stack.receivers[place])
        for row, payload in enumerate(stack.payloads(mail.kind, mail.round)):
            receivers = list(stack.receivers) if ways is None else ways[row]
            if receivers := [name for name in receivers if name != payload.sender]:
                yield payload.sender, encode(payload), receivers
