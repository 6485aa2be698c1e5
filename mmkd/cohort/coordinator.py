"""What a cohort asks of whoever coordinates it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor

from mmkd.schedule import Timetable
from mmkd.transport import Facts
from mmkd.types import PeerName, Step


class Lesson(NamedTuple):
    """What the rows of a group are taught in a step, which descends ``keep * private loss + loss``."""

    keep: Float[Tensor, " rows"]
    loss: Float[Tensor, " rows"]
    private: list[bool]  # for each row, whether it keeps any of its private loss


class Needs(NamedTuple):
    """What a coordinator has to do at a tick; of all else the cohort does not ask it."""

    begin: bool  # before the local steps
    teach: bool  # between forward and loss
    correct: bool  # between backward and clipping
    end: bool  # after the local steps


class Coordinator(Protocol):
    """Coordinates the peers of a cohort, tick by tick.

    Lightning has no hook between forward and loss, so the cohort calls.
    """

    def needs(self, tick: int) -> Needs:
        """What it has to do at a tick."""

    def begin(self, step: Step) -> Step:
        """Begin a round, if this is its first tick; what is to be learned in the local steps."""

    def teach(self, step: Step, rows: list[list[int]]) -> list[Lesson | None]:
        """What the active rows of each group are taught."""

    def correct(self, step: Step, kept: dict[PeerName, float]) -> None:
        """Change local gradients.

        Args:
            step: the samples that they are of.
            kept: how much of its private loss a peer keeps; all of it, for peers that are not named.
        """

    def end(self, tick: int) -> None:
        """Exchange what is due after this tick."""

    def figures(self, tick: int) -> dict[str, float]:
        """What is to be logged after a round, by name."""


class Coordination(ABC):
    """A callback that coordinates a cohort: the cohort finds it among those of its trainer."""

    @property
    @abstractmethod
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""

    @abstractmethod
    def join(self, facts: Mapping[PeerName, Facts]) -> tuple[Mapping[PeerName, Facts], Timetable]:
        """Say who is in this process.

        Args:
            facts: of the cohort's peers.

        Returns:
            those of all peers, here and elsewhere, in canonical order, and when which of them steps.
        """

    @property
    @abstractmethod
    def coordinator(self) -> Coordinator | None:
        """At work while a fit lasts."""
