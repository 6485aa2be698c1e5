"""The interface of coordinators: what a cohort asks of one at a tick."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mmkd.description import Setting
from mmkd.schedule import Timetable
from mmkd.transport import Facts
from mmkd.types import PeerName, Step


class Lesson(NamedTuple):
    """The losses of targets for rows of a group in a step, which descends ``keep * private loss + loss``."""

    keep: Float[Tensor, " rows"]
    loss: Float[Tensor, " rows"]
    private: list[bool]  # for each row, whether it keeps any of its private loss


class Needs(NamedTuple):
    """What a coordinator has to do at a tick; the cohort calls none of its other methods there."""

    speak: bool  # within the step peers say what they predict
    begin: bool  # before the local steps
    teach: bool  # between forward and loss
    correct: bool  # between backward and clipping
    end: bool  # after the local steps


NOTHING = Needs(speak=False, begin=False, teach=False, correct=False, end=False)
"""The needs of a cohort without a coordinator: none, at any tick."""


@runtime_checkable
class Coordinator(Protocol):
    """Coordinates the peers of a cohort, tick by tick.

    The cohort calls these methods itself, because Lightning has no hook between forward and loss.
    """

    def needs(self, tick: int) -> Needs:
        """The methods that are to be called at a tick."""

    def begin(self, step: Step) -> Step:
        """Begin a round, if this is its first tick, and return the step with targets of private samples."""

    def teach(self, step: Step, rows: list[list[int]]) -> list[Lesson | None]:
        """The lesson of the active rows of each group that has one."""

    def correct(self, step: Step, kept: dict[PeerName, float]) -> None:
        """Change local gradients before they are clipped.

        Args:
            step: the samples that they are of.
            kept: how much of its private loss a peer keeps; all of it, for peers that are not named.
        """

    def end(self, tick: int) -> None:
        """Exchange what is due after this tick."""

    def figures(self, tick: int) -> dict[str, float]:
        """Numbers to be logged after a round, by name."""


class Coordination(ABC):
    """The base of callbacks that coordinate a cohort, which finds one among those of its trainer."""

    @property
    @abstractmethod
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """What decides what the coordinator does, by name; a run goes on with the same."""

    @abstractmethod
    def join(
        self,
        facts: Mapping[PeerName, Facts],
        awaited: Collection[PeerName],
        settings: Mapping[str, Setting],
        *,
        may_leave: bool,
    ) -> tuple[Mapping[PeerName, Facts], Timetable]:
        """Tell other processes which peers are in this one, and make the timetable.

        Args:
            facts: of the cohort's peers.
            awaited: peers of the same configuration that other processes hold.
            settings: that those must share, by name.
            may_leave: whether peers that diverge sit out, so that the timetable needs attendance.

        Returns:
            those of all peers, in this process and in others, in canonical order, and the ticks at which each
            steps.
        """

    @property
    @abstractmethod
    def begins(self) -> int:
        """The first round in which the peers of this process take part."""

    @property
    @abstractmethod
    def coordinator(self) -> Coordinator | None:
        """The coordinator of the fit under way."""
