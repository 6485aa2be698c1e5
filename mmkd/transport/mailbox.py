"""Letters that have arrived, by exchange and process, until the exchange that they are of is taken."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from threading import Condition
from typing import NamedTuple

from mmkd.transport.letters import Exchange, Slip

AHEAD = 1
"""Rounds by which a process that others wait for may be ahead of them."""

OVERHEAD = 512
"""Bytes that keeping a letter takes besides its message."""


class Letter(NamedTuple):
    """A message as it arrived, and what its slip says."""

    encoded: bytes
    slip: Slip
    round: int  # in which it was sent


class Mailbox:
    """Keeps letters of the round that is under way and of the next, within a number of bytes.

    Threads of the network put letters in, and the one that trains takes them out.

    Args:
        room: the most bytes that it holds; what comes beyond is dropped, and asked for again later.
    """

    def __init__(self, room: int) -> None:
        self._room, self._used = room, 0
        self._changed = Condition()
        self._round = 0
        self._taken: dict[Exchange, None] = {}
        self._letters: dict[Exchange, dict[str, dict[int, Letter]]] = {}
        self.latest: dict[str, int] = {}
        """The latest round of which a process has sent something."""
        self.early: dict[str, int] = {}
        """The round of the last letter of a process that was dropped because it came early."""
        self.dropped: Counter[str] = Counter()
        """How many letters were dropped, by reason."""

    def put(self, process: str, exchange: Exchange, letter: Letter) -> str | None:
        """Keep a letter of a process; returns why it is dropped, if it is."""
        with self._changed:
            reason = self._refusal(process, exchange, letter)
            if reason is None:
                own = self._letters.setdefault(exchange, {}).setdefault(process, {})
                own[letter.slip.place] = letter
                self._used += room_of(letter)
                self._changed.notify_all()
            else:
                self.dropped[reason] += 1
            return reason

    def _refusal(self, process: str, exchange: Exchange, letter: Letter) -> str | None:
        self.latest[process] = max(self.latest.get(process, 0), exchange.round)
        if exchange in self._taken or exchange.round < self._round:
            return "late"
        if exchange.round > self._round + AHEAD:
            self.early[process] = exchange.round
            return "early"
        known = self._letters.get(exchange, {}).get(process, {})
        if letter.slip.place in known:
            return "repeated"
        if known and next(iter(known.values())).slip.of != letter.slip.of:
            return "count"
        if self._used + room_of(letter) > self._room:
            return "room"
        return None

    def begin(self, round: int) -> None:
        """Forget what is left of rounds before this one."""
        with self._changed:
            if round <= self._round:
                return
            self._round = round
            self._taken = {exchange: None for exchange in self._taken if exchange.round >= round}
            for exchange in [exchange for exchange in self._letters if exchange.round < round]:
                self._forget(exchange)

    def wait(self, exchange: Exchange, processes: Collection[str], seconds: float) -> set[str]:
        """Wait until all letters of an exchange are here; returns the processes of which some are not."""
        until = time.monotonic() + seconds
        with self._changed:
            while missing := {process for process in processes if not self._whole(exchange, process)}:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return missing

    def take(self, exchange: Exchange) -> Mapping[str, list[Letter]]:
        """All letters of an exchange, by process, each in the order in which they were sent.

        What comes later is late, and a process of which some are missing is absent. One that has nothing to
        say has sent a letter without a message.
        """
        with self._changed:
            self._taken[exchange] = None
            whole = {
                p: letters
                for p, letters in self._letters.get(exchange, {}).items()
                if self._whole(exchange, p)
            }
            self._forget(exchange)
            return {p: [own[place] for place in sorted(own)] for p, own in whole.items()}

    def wake(self) -> None:
        """Have whoever waits look again."""
        with self._changed:
            self._changed.notify_all()

    def _whole(self, exchange: Exchange, process: str) -> bool:
        own = self._letters.get(exchange, {}).get(process, {})
        return bool(own) and len(own) >= next(iter(own.values())).slip.of

    def _forget(self, exchange: Exchange) -> None:
        for own in self._letters.pop(exchange, {}).values():
            self._used -= sum(map(room_of, own.values()))


def room_of(letter: Letter) -> int:
    """Bytes of a letter with what keeping it takes."""
    return len(letter.encoded) + OVERHEAD
