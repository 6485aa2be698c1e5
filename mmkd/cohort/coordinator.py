"""What a cohort and the callback that coordinates it ask of each other."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor

from mmkd.schedule import Timetable
from mmkd.types import PeerName, Step


class Coordinator(Protocol):
    """What a cohort asks of the callback that coordinates it.

    Lightning has no hook between forward and loss, so the cohort calls.
    """

    @property
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""

    def timetable(self, steps_per_epoch: dict[PeerName, int]) -> Timetable:
        """When which peer steps, from the steps that it takes to pass over its data."""

    def before_step(self, step: Step) -> Step:
        """Called before the local steps of a tick; what is to be learned in them."""

    def correct(self) -> None:
        """Called between backward and clipping."""

    def teach(self, step: Step, rows: list[list[int]]) -> list[Lesson | None]:
        """What the active rows of each group are taught."""

    def after_step(self, tick: int) -> None:
        """Called after the local steps of a tick."""


class Lesson(NamedTuple):
    """Knowledge for the rows of a group: a step descends ``keep * private loss + loss``."""

    keep: Float[Tensor, " rows"]
    loss: Float[Tensor, " rows"]
    private: list[bool]  # for each row, whether it keeps any of its private loss
