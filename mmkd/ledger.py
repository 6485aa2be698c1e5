"""Who sent how many bytes to whom, of which kind; and what was computed. Adds like a number."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from mmkd.types import PeerName

FRAMING = "framing"
"""The kind of header and envelope bytes, which no total counts."""


class Entry(NamedTuple):
    """Bytes that crossed one directed edge in one round."""

    round: int
    sender: str
    receiver: str
    direction: str  # "up" to a hub, "down" from one, "peer" between peers
    kind: str  # "logits", "weights", ..., or FRAMING
    bytes: int


class _Tally(NamedTuple):
    """Broadcasts over the same edges, added up."""

    round: int
    kind: str
    peers: list[PeerName]
    hears: Tensor | None  # who hears whom, while more may come
    edges: Tensor  # [edges, 2]: listeners and speakers
    listeners: list[int]  # of each peer
    bytes: list[int]  # of each peer's payloads
    framing: list[int]


class _Relay(NamedTuple):
    """Payloads from one to many, or from many to one."""

    round: int
    kind: str
    senders: Sequence[str]
    receivers: Sequence[str]
    sizes: Sequence[tuple[int, int]]  # bytes and framing of each sender's payload


class Ledger:
    """Bytes of tensor payload over directed edges, framing apart, and FLOPs by peer (those of hubs apart).

    Three receivers count three times; through a hub both ways count.

    Args:
        peers: everybody who takes part; bytes per peer divide by their number.
    """

    def __init__(self, peers: Iterable[PeerName]) -> None:
        self.flops: dict[PeerName, float] = dict.fromkeys(peers, 0.0)
        self.hub_flops: dict[str, float] = defaultdict(float)
        self._bytes: dict[tuple[int, str, str, str], int] = defaultdict(int)
        self._kinds: dict[str, int] = defaultdict(int)
        self._tally: _Tally | None = None
        # Written down edge by edge when somebody asks for edges: a run may have millions of them.
        self._tallies: list[_Tally] = []
        self._relays: list[_Relay] = []

    def send(self, round: int, sender: str, receiver: str, kind: str, nbytes: int, framing: int = 0) -> None:
        """Count one payload over one directed edge."""
        self._add_up(kind, nbytes, framing)
        self._write_down(round, sender, receiver, kind, nbytes, framing)

    def relay(
        self,
        round: int,
        kind: str,
        senders: Sequence[str],
        receivers: Sequence[str],
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        """Count payloads through a hub: from one sender to all receivers, or from all senders to one.

        Args:
            round: the round.
            kind: of the payloads.
            senders: one, or as many as there are sizes.
            receivers: all hear every sender.
            sizes: bytes and framing of each sender's payload.
        """
        for nbytes, framing in sizes:
            self._add_up(kind, nbytes * len(receivers), framing * len(receivers))
        self._relays.append(_Relay(round, kind, senders, receivers, sizes))

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

    def broadcast(
        self,
        round: int,
        kind: str,
        peers: Sequence[PeerName],
        hears: Bool[Tensor, "listeners speakers"],
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        """Count what peers say to all that hear them: bytes and framing of each one's payload.

        An exchange over the edges of the last costs no walk along them.
        """
        tally = self._tally
        if (
            tally is None
            or (tally.round, tally.kind, tally.peers) != (round, kind, list(peers))
            or tally.hears is None
            or not torch.equal(tally.hears, hears)
        ):
            self._close()
            edges = hears.nonzero()
            count = torch.bincount(edges[:, 1], minlength=len(peers)).tolist()
            none, no_framing = [0] * len(peers), [0] * len(peers)
            tally = self._tally = _Tally(
                round, kind, list(peers), hears.clone(), edges.int(), count, none, no_framing
            )
        for i, (listeners, (nbytes, framing)) in enumerate(zip(tally.listeners, sizes, strict=True)):
            tally.bytes[i] += nbytes
            tally.framing[i] += framing
            self._add_up(kind, nbytes * listeners, framing * listeners)

    def _close(self) -> None:
        """Nothing will be added to the broadcasts that are being added up."""
        if self._tally is not None:
            # Thousands of peers have a thousand times fewer edges than pairs.
            self._tallies.append(self._tally._replace(hears=None))
        self._tally = None

    def _settle(self) -> None:
        """Write broadcasts and relays down edge by edge."""
        self._close()
        tallies, self._tallies = self._tallies, []
        for tally in tallies:
            for listener, speaker in tally.edges.tolist():
                edge = tally.round, tally.peers[speaker], tally.peers[listener], tally.kind
                self._write_down(*edge, tally.bytes[speaker], tally.framing[speaker])
        relays, self._relays = self._relays, []
        for relay in relays:
            for sender, (nbytes, framing) in zip(relay.senders, relay.sizes, strict=True):
                for receiver in relay.receivers:
                    self._write_down(relay.round, sender, receiver, relay.kind, nbytes, framing)

    def compute(self, peer: PeerName, flops: float) -> None:
        """Count what a peer, or a hub, has computed."""
        (self.flops if peer in self.flops else self.hub_flops)[peer] += flops

    def entries(self) -> Iterator[Entry]:
        """All bytes, ordered by round, sender, receiver and kind."""
        self._settle()
        for (round_, sender, receiver, kind), nbytes in sorted(self._bytes.items()):
            yield Entry(round_, sender, receiver, self._direction(sender, receiver), kind, nbytes)

    def _direction(self, sender: str, receiver: str) -> str:
        if receiver not in self.flops:
            return "up"
        return "peer" if sender in self.flops else "down"

    def total(self, kind: str | None = None) -> int:
        """Bytes of tensor payload over all edges, framing excluded; of one ``kind`` if given."""
        if kind is not None:
            return self._kinds.get(kind, 0)
        return sum(nbytes for name, nbytes in self._kinds.items() if name != FRAMING)

    def kinds(self) -> list[str]:
        """What was sent so far, framing among it."""
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
        """The two together: edges and peers add up."""
        both = Ledger([*self.flops, *other.flops])
        for ledger in (self, other):
            ledger._settle()
            for (round_, sender, receiver, kind), nbytes in ledger._bytes.items():
                both.send(round_, sender, receiver, kind, nbytes)
            for peer, flops in [*ledger.flops.items(), *ledger.hub_flops.items()]:
                both.compute(peer, flops)
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self.state_dict() == other.state_dict()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def state_dict(self) -> dict[str, object]:
        """Everything, as plain values."""
        self._settle()
        return {
            "flops": dict(self.flops),
            "hub_flops": dict(self.hub_flops),
            "bytes": [(*edge, n) for edge, n in sorted(self._bytes.items())],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, object]) -> Ledger:
        """The ledger that gave this state."""
        flops: dict[PeerName, float] = state["flops"]  # type: ignore[assignment]
        hub_flops: dict[str, float] = state["hub_flops"]  # type: ignore[assignment]
        rows: list[tuple[int, str, str, str, int]] = state["bytes"]  # type: ignore[assignment]
        ledger = cls(flops)
        ledger.flops = dict(flops)
        ledger.hub_flops.update(hub_flops)
        for round_, sender, receiver, kind, nbytes in rows:
            ledger.send(round_, sender, receiver, kind, nbytes)
        return ledger

    def write(self, path: Path) -> None:
        """Write all entries as CSV, one edge, round and kind a row."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Entry._fields)
            writer.writerows(self.entries())
