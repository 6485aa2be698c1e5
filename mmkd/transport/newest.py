"""The newest letters of each process, for processes that wait for nobody and are in different rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Lock

from mmkd.transport.letters import Exchange
from mmkd.transport.mailbox import Letter, room_of


class Coming:
    """Letters of one process in exchanges of one kind and number, of the latest round alone.

    Args:
        instance: of the process, which begins with early rounds when it is started again.
        round: the latest.
    """

    def __init__(self, instance: str, round: int) -> None:
        self.instance, self.round = instance, round
        self.parts: dict[int, Letter] = {}
        """Those of the latest round, until all of them are here."""
        self.whole: list[Letter] | None = None
        """All letters of a round, until they are taken."""
        self.complete = False
        """Whether those of the latest round have all been here."""

    @property
    def used(self) -> int:
        """Bytes that they take."""
        return sum(map(room_of, [*self.parts.values(), *(self.whole or ())]))


class Newest:
    """Keeps of each process the newest letters that nobody has taken, within a number of bytes.

    Threads of the network put letters in, and the one that trains takes them out. Of two rounds of which
    letters arrive between two looks the later one counts.

    Args:
        room: the most bytes that it holds; what comes beyond is dropped.
    """

    def __init__(self, room: int) -> None:
        self._room, self._lock = room, Lock()
        self._coming: dict[tuple[str, str, int], Coming] = {}
        self.latest: dict[str, int] = {}
        """The latest round of which a process has sent something."""
        self.dropped: Counter[str] = Counter()
        """How many letters were dropped, by reason."""

    def put(self, process: str, exchange: Exchange, letter: Letter) -> str | None:
        """Keep a letter of a process; returns why it is dropped, if it is."""
        with self._lock:
            which = process, exchange.kind, exchange.number
            coming, slip = self._coming.get(which), letter.slip
            if coming is None or coming.instance != slip.instance:
                coming = self._coming[which] = Coming(slip.instance, exchange.round)
            reason = self._refusal(coming, exchange.round, letter)
            if reason is not None:
                self.dropped[reason] += 1
                return reason
            self.latest[process] = exchange.round
            coming.parts[slip.place] = letter
            if len(coming.parts) >= slip.of:
                coming.whole = [coming.parts[place] for place in sorted(coming.parts)]
                coming.parts, coming.complete = {}, True
            return None

    def _refusal(self, coming: Coming, round: int, letter: Letter) -> str | None:
        if round < coming.round:
            return "late"
        if round > coming.round:
            coming.round, coming.parts, coming.complete = round, {}, False
        if coming.complete or letter.slip.place in coming.parts:
            return "repeated"
        if coming.parts and next(iter(coming.parts.values())).slip.of != letter.slip.of:
            return "count"
        if sum(own.used for own in self._coming.values()) + room_of(letter) > self._room:
            return "room"
        return None

    def begin(self, round: int) -> None:
        """Rounds of this process say nothing of those of others."""

    def wake(self) -> None:
        """Nobody waits."""

    def take(self, exchange: Exchange) -> Mapping[str, list[Letter]]:
        """The newest letters of exchanges of that kind and number, whatever their round; taken once."""
        with self._lock:
            found = {}
            for (process, kind, number), coming in self._coming.items():
                if (kind, number) == (exchange.kind, exchange.number) and coming.whole is not None:
                    found[process], coming.whole = coming.whole, None
            return found
