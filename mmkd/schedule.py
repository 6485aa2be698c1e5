"""When a cohort trains and when it exchanges. A round is local training, then an exchange."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from mmkd.participation import Attendance
from mmkd.types import ConfigError, PeerName


@dataclass(frozen=True)
class Timetable:
    """A schedule for known peers; everything follows from the tick, so nothing needs to be saved.

    A *tick* is one step of the cohort. A round lasts as many ticks as its busiest peer takes local
    steps; a peer with fewer sits out the rest of the round.
    """

    steps: Mapping[PeerName, int]  # local steps per round
    knowledge_every: int  # ticks between two exchanges of knowledge
    rounds_per_epoch: int
    block: int  # ticks that Lightning sees as one batch, at most
    attendance: Attendance | None = None  # everybody in every round, if there is none

    @cached_property
    def round_ticks(self) -> int:
        """Ticks in a round."""
        return max(self.steps.values())

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

    def exchanges_knowledge(self, tick: int) -> bool:
        """Whether knowledge is exchanged at this tick."""
        return tick % self.knowledge_every == 0

    def active(self, tick: int) -> list[PeerName]:
        """The peers that take a local step at this tick."""
        round_, within = divmod(tick, self.round_ticks)
        busy = [peer for peer, steps in self.steps.items() if within < steps]
        if self.attendance is None:
            return busy
        present = self.attendance.present(round_)
        return [peer for peer in busy if peer in present]

    def local_step(self, peer: PeerName, tick: int) -> int:
        """How many local steps the peer has taken before this tick."""
        round_, within = divmod(tick, self.round_ticks)
        whole, here = round_, True
        if self.attendance is not None:
            whole, here = self.attendance.before(peer, round_), peer in self.attendance.present(round_)
        return whole * self.steps[peer] + (min(within, self.steps[peer]) if here else 0)

    def local_steps(self, peer: PeerName, ticks: range) -> range:
        """The local steps of a peer in ``ticks`` of one round, at the first of which it is active."""
        first = self.local_step(peer, ticks[0])
        left = self.steps[peer] - ticks[0] % self.round_ticks
        return range(first, first + min(len(ticks), left))


@dataclass
class Schedule:
    """How long a round is, and how often knowledge is exchanged.

    Args:
        local_steps: local steps of a peer in a round: one number, or one for each fleet or peer.
        local_epochs: passes over the peer's private data instead; peers then do unequal work.
        knowledge_every: ticks between two exchanges of knowledge; one a round if left out.
        rounds_per_epoch: rounds in a Lightning epoch, after which validation is due.
        block: ticks handed to Lightning as one batch: a checkpoint may fall between two blocks.
    """

    local_steps: int | dict[str, int] | None = None
    local_epochs: int | dict[str, int] | None = None
    knowledge_every: int | None = None
    rounds_per_epoch: int = 1
    block: int = 10

    def __post_init__(self) -> None:
        if self.local_steps is None and self.local_epochs is None:
            self.local_steps = 10
        elif self.local_steps is not None and self.local_epochs is not None:
            raise ConfigError("a round is counted in local_steps or in local_epochs; give one of them")
        for name in ("knowledge_every", "rounds_per_epoch", "block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"schedule.{name} must be at least 1, not {value}")

    def timetable(
        self, steps_per_epoch: Mapping[PeerName, int], attendance: Attendance | None = None
    ) -> Timetable:
        """The schedule of peers that need ``steps_per_epoch`` steps to pass over their data once.

        Raises:
            ConfigError: a number names no fleet or peer, leaves one out, or is below 1.
        """
        if self.local_steps is not None:
            steps = _each(self.local_steps, steps_per_epoch)
        else:
            epochs = _each(self.local_epochs or 1, steps_per_epoch)
            steps = {peer: n * steps_per_epoch[peer] for peer, n in epochs.items()}
        period = max(steps.values())
        every = self.knowledge_every or period
        return Timetable(steps, every, self.rounds_per_epoch, self.block, attendance)


def _each(value: int | dict[str, int], peers: Iterable[PeerName]) -> dict[PeerName, int]:
    """One number for every peer, from one number for all or one for each fleet or peer."""
    names = list(peers)
    given = value if isinstance(value, dict) else dict.fromkeys(names, value)
    fleets = {name.rsplit("/", 1)[0] for name in names}
    for name, number in given.items():
        if name not in fleets and name not in names:
            raise ConfigError(f"the schedule names '{name}', which is no fleet or peer")
        if number < 1:
            raise ConfigError(f"the schedule gives '{name}' {number} of local work; at least 1 is needed")
    chosen = {name: given.get(name, given.get(name.rsplit("/", 1)[0])) for name in names}
    missing = [name for name, number in chosen.items() if number is None]
    if missing:
        raise ConfigError(f"the schedule says nothing about {', '.join(missing)}")
    return {name: number for name, number in chosen.items() if number is not None}
