"""The schedule: when a cohort trains and when it exchanges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeAlias

from mmkd.bounds import Count, Whole, bounded
from mmkd.functional.random import key_of_step
from mmkd.participation import Attendance
from mmkd.rates import Rate
from mmkd.types import ConfigError, PeerName


class Work(NamedTuple):
    """Local steps of a peer in a round: between ``least`` and ``most`` units, drawn anew every round."""

    least: int
    most: int
    unit: int = 1  # local steps, those of a local epoch if work is counted in epochs
    stream: int = 0  # keys the draw

    def steps(self, round: int) -> int:
        """Number of local steps in that round."""
        if self.least == self.most:
            return self.unit * self.most
        return self.unit * (self.least + key_of_step(self.stream, round) % (self.most - self.least + 1))


@dataclass(frozen=True)
class Timetable:
    """A schedule for known peers; everything follows from the tick, so nothing needs to be saved.

    A *tick* is one step of the cohort. A round lasts as many ticks as its busiest peer may take local
    steps; a peer with fewer sits out the rest of the round.
    """

    work: Mapping[PeerName, Work]
    knowledge_every: int  # ticks between two exchanges of knowledge
    rounds_per_epoch: int
    block: int  # ticks that Lightning sees as one batch, at most
    attendance: Attendance | None = None  # if None, everybody takes part in every round
    rate: Rate | None = None  # multiplies all learning rates; they stay, if None
    _taken: dict[PeerName, int] = field(default_factory=dict)  # steps in the rounds counted so far
    _counted: list[int] = field(default_factory=lambda: [0])  # how many rounds those are

    @cached_property
    def round_ticks(self) -> int:
        """Ticks in a round."""
        return max(work.unit * work.most for work in self.work.values())

    @cached_property
    def blocks_per_round(self) -> int:
        """Lightning batches in a round; a block never reaches over the end of one."""
        return -(-self.round_ticks // self.block)

    def block_ticks(self, block: int) -> range:
        """The ticks of the ``block``-th block since training began."""
        round_, i = divmod(block, self.blocks_per_round)
        start = round_ * self.round_ticks
        return range(start + i * self.block, start + min((i + 1) * self.block, self.round_ticks))

    def round_of(self, tick: int) -> int:
        """The round to which a tick belongs."""
        return tick // self.round_ticks

    def ends_round(self, tick: int) -> bool:
        """Whether weights are exchanged after this tick."""
        return (tick + 1) % self.round_ticks == 0

    def factor(self, tick: int) -> float | None:
        """By what learning rates are multiplied from this tick on, if that is new."""
        first = tick % self.round_ticks == 0
        return self.rate.factor(self.round_of(tick)) if self.rate is not None and first else None

    def exchanges_knowledge(self, tick: int) -> bool:
        """Whether knowledge is exchanged at this tick."""
        return tick % self.knowledge_every == 0

    @cached_property
    def static(self) -> frozenset[PeerName]:
        """Peers that never take a local step."""
        return frozenset(peer for peer, work in self.work.items() if work.most == 0)

    def there(self, round: int) -> frozenset[PeerName]:
        """The peers that take part in a round, static ones among them."""
        return self._everybody if self.attendance is None else self.attendance.present(round)

    @cached_property
    def _everybody(self) -> frozenset[PeerName]:
        return frozenset(self.work)

    def steps(self, peer: PeerName, round: int) -> int:
        """Local steps of a peer in a round; none, if it sits out."""
        if self.attendance is not None and peer not in self.attendance.present(round):
            return 0
        return self.work[peer].steps(round)

    def active(self, tick: int) -> list[PeerName]:
        """The peers that take a local step at this tick."""
        round_, within = divmod(tick, self.round_ticks)
        there = sorted(self.there(round_), key=self._places.__getitem__)
        return [peer for peer in there if within < self.work[peer].steps(round_)]

    @cached_property
    def _places(self) -> dict[PeerName, int]:
        return {peer: i for i, peer in enumerate(self.work)}

    def local_step(self, peer: PeerName, tick: int) -> int:
        """How many local steps the peer has taken before this tick."""
        round_, within = divmod(tick, self.round_ticks)
        # All peers are counted in one pass over rounds: of many peers each takes part in few rounds.
        while self._counted[0] < round_:
            for name in self.there(self._counted[0]):
                self._taken[name] = self._taken.get(name, 0) + self.work[name].steps(self._counted[0])
            self._counted[0] += 1
        since = sum(self.steps(peer, later) for later in range(round_, self._counted[0]))
        return self._taken.get(peer, 0) - since + min(within, self.steps(peer, round_))

    def local_steps(self, peer: PeerName, ticks: range) -> range:
        """The local steps of a peer in ``ticks`` of one round, at the first of which it is active."""
        round_, within = divmod(ticks[0], self.round_ticks)
        first, left = self.local_step(peer, ticks[0]), self.steps(peer, round_) - within
        return range(first, first + min(len(ticks), left))


Amount: TypeAlias = Whole | list[Whole]
"""A number, or ``[least, most]`` to draw from."""


@bounded
@dataclass
class Schedule:
    """How long a round is, and how often knowledge is exchanged.

    Args:
        local_steps: local steps of a peer in a round: one number, or one for each fleet or peer. In place
            of a number, ``[least, most]`` is drawn anew every round, as for slow and busy devices. With 0 a
            peer is a static teacher: it speaks, in evaluation mode, and never changes.
        local_epochs: passes over the peer's private data instead; peers then do unequal work.
        knowledge_every: ticks between two exchanges of knowledge; one a round if left out.
        rounds_per_epoch: rounds in a Lightning epoch, after which validation is due.
        block: ticks handed to Lightning as one batch: a checkpoint may fall between two blocks.
        rate: multiplies the learning rates of all peers alike, round by round; they are the peers' own, if
            left out.
    """

    local_steps: Amount | dict[str, Amount] | None = None
    local_epochs: Amount | dict[str, Amount] | None = None
    knowledge_every: Count | None = None
    rounds_per_epoch: Count = 1
    block: Count = 10
    rate: Rate | None = None

    def __post_init__(self) -> None:
        if self.local_steps is None and self.local_epochs is None:
            self.local_steps = 10
        elif self.local_steps is not None and self.local_epochs is not None:
            raise ConfigError("a round is counted in local_steps or in local_epochs; give one of them")

    def timetable(
        self,
        steps_per_epoch: Mapping[PeerName, int],
        attendance: Attendance | None = None,
        streams: Mapping[PeerName, int] | None = None,
    ) -> Timetable:
        """The schedule of peers that need ``steps_per_epoch`` steps to pass over their data once.

        Args:
            steps_per_epoch: of every peer.
            attendance: who takes part in which round; everybody, if left out.
            streams: what keys each peer's draws of its work.

        Raises:
            ConfigError: a number names no fleet or peer, leaves one out, or is below 1.
        """
        given = self.local_steps if self.local_steps is not None else self.local_epochs
        work = {}
        for peer, (least, most) in _each(given, steps_per_epoch).items():
            unit = 1 if self.local_steps is not None else steps_per_epoch[peer]
            work[peer] = Work(least, most, unit, (streams or {}).get(peer, 0))
        if not any(w.most for w in work.values()):
            raise ConfigError("the schedule gives nobody any local work; at least one peer needs some")
        every = self.knowledge_every or max(w.unit * w.most for w in work.values())
        return Timetable(work, every, self.rounds_per_epoch, self.block, attendance, self.rate)


def _each(
    value: Amount | dict[str, Amount] | None, peers: Iterable[PeerName]
) -> dict[PeerName, tuple[int, int]]:
    """Least and most for every peer, from one amount for all or one for each fleet or peer."""
    names = list(peers)
    given = value if isinstance(value, dict) else dict.fromkeys(names, value)
    known = {*names, *(name.rsplit("/", 1)[0] for name in names)}
    spans = {name: (a, a) if isinstance(a, int) else tuple(a or ()) for name, a in given.items()}
    for name, span in spans.items():
        if name not in known:
            raise ConfigError(f"the schedule names '{name}', which is no fleet or peer")
        if len(span) != 2 or span[0] > span[1]:
            raise ConfigError(
                f"the schedule gives '{name}' {list(span)}, which is no number and no [least, most]"
            )
    chosen = {name: spans.get(name, spans.get(name.rsplit("/", 1)[0])) for name in names}
    missing = [name for name, span in chosen.items() if span is None]
    if missing:
        raise ConfigError(f"the schedule says nothing about {', '.join(missing)}")
    return {name: (span[0], span[1]) for name, span in chosen.items() if span is not None}
