"""The ledger: who sent how many bytes to whom, of which kind, and what was computed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.tables import write_rows
from mmkd.types import PeerName

FRAMING = "framing"
"""The kind of header and envelope bytes, which no total counts."""
JOINING = "joining"
"""The kind of the message in which a peer sends its facts to other processes, which no total counts."""
EVERYBODY = "everybody"
"""The receiver of such messages."""
APART = frozenset({FRAMING, JOINING})
"""Kinds that no total counts."""


class Entry(NamedTuple):
    """Bytes that crossed one directed edge in one round."""

    round: int
    sender: str
    receiver: str
    direction: str  # "up" to a hub, "down" from one, "peer" between peers
    kind: str  # "logits", "weights", ..., or FRAMING
    bytes: int


def copies(
    senders: Sequence[str], receivers: Sequence[str], edges: Int[Tensor, "2 edges"] | None
) -> list[int]:
    """How many receivers get what each sender sends; nobody sends to itself (see ``Ledger.count``)."""
    if edges is not None:
        counts: list[int] = torch.bincount(edges[1], minlength=len(senders)).tolist()
        return counts
    among = set(receivers)
    return [len(among) - (sender in among) for sender in senders]


class _Sent(NamedTuple):
    """Bytes of payloads that went over the same edges, added up."""

    round: int
    kind: str
    senders: Sequence[str]  # of each payload
    receivers: Sequence[str]
    edges: Tensor | None  # [2, edges]: receiver and payload of each; if None, all get all
    bytes: list[int]  # of each payload
    framing: list[int]

    def alike(self, other: _Sent) -> bool:
        """Whether the other payloads go over the same edges."""
        one, two = self.edges, other.edges
        same = one is two or (one is not None and two is not None and torch.equal(one, two))
        return same and self[:4] == other[:4]

    def ways(self) -> Iterator[tuple[int, int]]:
        """Receiver and payload of each edge."""
        if self.edges is not None:
            yield from self.edges.T.tolist()
            return
        for row, sender in enumerate(self.senders):
            yield from ((i, row) for i, receiver in enumerate(self.receivers) if receiver != sender)


class Ledger:
    """Bytes of tensor payload over directed edges, framing apart, and FLOPs by peer (those of hubs apart).

    A payload counts once for each receiver; through a hub, the way to it and the ways from it count.
    Ledgers can be added: where peers are in several processes, each process counts what is sent and computed
    in it, and the sum is that of one process with all peers.

    Args:
        peers: everybody who takes part; bytes per peer divide by their number.
    """

    def __init__(self, peers: Iterable[PeerName]) -> None:
        self.flops: dict[PeerName, float] = dict.fromkeys(peers, 0.0)
        self.hub_flops: dict[str, float] = defaultdict(float)
        self._bytes: dict[tuple[int, str, str, str], int] = defaultdict(int)
        self._kinds: dict[str, int] = defaultdict(int)
        # Entries are made edge by edge only when somebody asks for them: a run may have millions of edges.
        self._sent: list[_Sent] = []
        self._copies: list[int] = []  # of the last of them
        self.refused: Counter[tuple[str, str, str]] = Counter()
        """Messages that arrived and were wrong, by sender (empty, if it is nobody who was expected), kind of
        the exchange and reason. Their bytes are counted where they were sent, and in no total here."""

    def send(self, round: int, sender: str, receiver: str, kind: str, nbytes: int, framing: int = 0) -> None:
        """Count one payload over one directed edge."""
        self._add_up(kind, nbytes, framing)
        self._write_down(round, sender, receiver, kind, nbytes, framing)

    def count(
        self,
        round: int,
        kind: str,
        senders: Sequence[str],
        receivers: Sequence[str],
        edges: Int[Tensor, "2 edges"] | None,
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        """Count payloads, one a sender, over the edges that they cross.

        Repeating the edges of the last call costs no pass over them.

        Args:
            round: the round.
            kind: of the payloads.
            senders: of each payload.
            receivers: participants that may get a payload.
            edges: position of a receiver and of the payload that it gets; if None, all get all but their own.
            sizes: bytes and framing of each payload.
        """
        sent = _Sent(round, kind, list(senders), list(receivers), edges, [0] * len(sizes), [0] * len(sizes))
        if not self._sent or not self._sent[-1].alike(sent):
            self._sent.append(sent)
            self._copies = copies(senders, receivers, edges)
        last = self._sent[-1]
        total = whole = 0
        for i, (number, (nbytes, framing)) in enumerate(zip(self._copies, sizes, strict=True)):
            last.bytes[i] += nbytes
            last.framing[i] += framing
            total, whole = total + nbytes * number, whole + framing * number
        self._add_up(kind, total, whole)

    def _add_up(self, kind: str, nbytes: int, framing: int) -> None:
        for name, count in ((kind, nbytes), (FRAMING, framing)):
            if count:
                self._kinds[name] += count

    def _write_down(
        self, round: int, sender: str, receiver: str, kind: str, nbytes: int, framing: int
    ) -> None:
        if nbytes:
            self._bytes[round, sender, receiver, kind] += nbytes
        if framing:
            self._bytes[round, sender, receiver, FRAMING] += framing

    def _settle(self) -> None:
        """Turn all that was counted into entries, edge by edge."""
        settled, self._sent = self._sent, []
        for sent in settled:
            for receiver, row in sent.ways():
                edge = sent.round, sent.senders[row], sent.receivers[receiver], sent.kind
                self._write_down(*edge, sent.bytes[row], sent.framing[row])

    def refuse(self, sender: str, kind: str, reason: str) -> int:
        """Count a message that was wrong; how many of this sender, kind and reason there were so far."""
        self.refused[sender, kind, reason] += 1
        return self.refused[sender, kind, reason]

    def refusals(self) -> dict[str, int]:
        """Messages that were wrong, by reason."""
        reasons: Counter[str] = Counter()
        for (_, _, reason), count in self.refused.items():
            reasons[reason] += count
        return dict(sorted(reasons.items()))

    def compute(self, peer: PeerName, flops: float) -> None:
        """Count what a peer, or a hub, has computed."""
        (self.flops if peer in self.flops else self.hub_flops)[peer] += flops

    def entries(self) -> Iterator[Entry]:
        """All bytes, ordered by round, sender, receiver and kind."""
        self._settle()
        for (round_, sender, receiver, kind), nbytes in sorted(self._bytes.items()):
            yield Entry(round_, sender, receiver, self._direction(sender, receiver), kind, nbytes)

    def _direction(self, sender: str, receiver: str) -> str:
        if receiver not in self.flops and receiver != EVERYBODY:
            return "up"
        return "peer" if sender in self.flops else "down"

    def total(self, kind: str | None = None) -> int:
        """Bytes of tensor payload over all edges, framing and joining excluded; of one ``kind`` if given."""
        if kind is not None:
            return self._kinds.get(kind, 0)
        return sum(nbytes for name, nbytes in self._kinds.items() if name not in APART)

    def kinds(self) -> list[str]:
        """The kinds of what was sent so far, framing among them."""
        return sorted(self._kinds)

    def bytes_per_peer(self) -> float:
        """Bytes over all edges divided by the number of peers."""
        return self.total() / len(self.flops)

    def flops_per_peer(self) -> float:
        """FLOPs of all peers divided by their number."""
        return sum(self.flops.values()) / len(self.flops)

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Bytes by kind and direction over all rounds, framing among the kinds."""
        table: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for entry in self.entries():
            table[entry.kind][entry.direction] += entry.bytes
        return {kind: dict(row) for kind, row in table.items()}

    def __add__(self, other: Ledger) -> Ledger:
        """The sum of two ledgers: entries and peers of both."""
        both = Ledger([*self.flops, *other.flops])
        for ledger in (self, other):
            ledger._settle()
            for (round_, sender, receiver, kind), nbytes in ledger._bytes.items():
                both.send(round_, sender, receiver, kind, nbytes)
            for peer, flops in [*ledger.flops.items(), *ledger.hub_flops.items()]:
                both.compute(peer, flops)
            both.refused += ledger.refused
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self.state_dict() == other.state_dict()

    __hash__ = None  # type: ignore[assignment]  # a ledger changes, so it has no hash

    def state_dict(self) -> dict[str, object]:
        """Everything, as plain values."""
        self._settle()
        return {
            "flops": dict(self.flops),
            "hub_flops": dict(self.hub_flops),
            "bytes": [(*edge, n) for edge, n in sorted(self._bytes.items())],
            "refused": [(*what, n) for what, n in sorted(self.refused.items())],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, object]) -> Ledger:
        """The ledger whose ``state_dict`` this is."""
        flops: dict[PeerName, float] = state["flops"]  # type: ignore[assignment]
        hub_flops: dict[str, float] = state["hub_flops"]  # type: ignore[assignment]
        rows: list[tuple[int, str, str, str, int]] = state["bytes"]  # type: ignore[assignment]
        ledger = cls(flops)
        ledger.flops = dict(flops)
        ledger.hub_flops.update(hub_flops)
        for round_, sender, receiver, kind, nbytes in rows:
            ledger.send(round_, sender, receiver, kind, nbytes)
        refused: list[tuple[str, str, str, int]] = state.get("refused", [])  # type: ignore[assignment]  # a state holds anything
        ledger.refused.update({(sender, kind, reason): n for sender, kind, reason, n in refused})
        return ledger

    def write(self, path: Path) -> None:
        """Write all entries as CSV, one edge, round and kind a row."""
        with path.open("w", newline="") as file:
            write_rows(file, [Entry._fields, *self.entries()])
