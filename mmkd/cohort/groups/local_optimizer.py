"""The optimizer and schedule that a student asks for, with scaled rates, and their saved settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mmkd.types import ConfigError

if TYPE_CHECKING:
    from mmkd.students.base import Student

_NO_SETTINGS = ("params", "name")
"""Keys of a parameter group that are no settings: its parameters, and its name for monitors."""


class LocalOptimizer:
    """A peer's optimizer and schedule, whose learning rates are multiplied by ``scale``.

    A schedule may multiply the last rate, set one outright (OneCycleLR) or bound it from below (eta_min).
    So it always sees the rates that it set itself, and its results are multiplied by the scale.

    Args:
        optimizer: with the rates that the student asks for.
        scheduler: a schedule that counts local steps; if None, rates never change.
        scale: of the learning rates.
    """

    def __init__(self, optimizer: Optimizer, scheduler: LRScheduler | None, scale: float = 1.0) -> None:
        self.optimizer, self.scheduler, self._scale, self._factor = optimizer, scheduler, scale, 1.0
        self._unscaled = [group["lr"] for group in optimizer.param_groups]
        self._apply()

    @property
    def _times(self) -> float:
        return self._scale * self._factor

    def _apply(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._unscaled, strict=True):
            group["lr"] = rate * self._times

    def follow(self, factor: float) -> None:
        """From now on rates are multiplied by this factor, too."""
        if factor != self._factor:
            self._take_in()
            self._factor = factor
            self._apply()

    def _take_in(self) -> None:
        """Learn which rates were set by hand; whoever has done so has set the multiplied ones."""
        for i, (group, rate) in enumerate(zip(self.optimizer.param_groups, self._unscaled, strict=True)):
            if group["lr"] != rate * self._times and self._times:
                self._unscaled[i] = group["lr"] / self._times

    def advance(self) -> None:
        """One step of the schedule."""
        if self.scheduler is None:
            return
        groups = self.optimizer.param_groups
        if self._times != 1:
            self._take_in()
            for group, rate in zip(groups, self._unscaled, strict=True):
                group["lr"] = rate
        self.scheduler.step()
        self._unscaled = [group["lr"] for group in groups]
        if self._times != 1:
            self._apply()

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Settings of every parameter group: not only rates, for a schedule may change momentum or betas."""
        groups = self.optimizer.param_groups
        return [{k: v for k, v in group.items() if k not in _NO_SETTINGS} for group in groups]

    def state_dict(self) -> dict[str, Any]:
        """State of the schedule, and the settings as it has changed them."""
        return {
            "settings": self.settings,
            "unscaled": list(self._unscaled),
            "factor": self._factor,
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of a saved schedule."""
        for group, settings in zip(self.optimizer.param_groups, state["settings"], strict=True):
            group.update(settings)
        self._unscaled, self._factor = list(state["unscaled"]), state["factor"]
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])


def local_optimizer(student: Student, scale: float = 1.0) -> LocalOptimizer:
    """The optimizer and schedule that a student asks for, its learning rates times ``scale``.

    Raises:
        ConfigError: the student asks for several optimizers, or a schedule that does not count steps, or its
            optimizer refuses a setting.
    """
    try:
        asked: Any = student.configure_optimizers()
    except ValueError as error:
        raise ConfigError(f"the optimizer of {type(student).__name__} is impossible: {error}") from error
    scheduler: Any = None
    if isinstance(asked, tuple | list) and asked and isinstance(asked[0], list | tuple):
        optimizers, schedulers = asked
        asked = optimizers[0] if len(optimizers) == 1 and len(schedulers) <= 1 else None
        scheduler = schedulers[0] if schedulers else None
    elif isinstance(asked, dict):
        asked, scheduler = asked.get("optimizer"), asked.get("lr_scheduler")
    if not isinstance(asked, Optimizer):
        raise ConfigError(f"{type(student).__name__} must configure exactly one optimizer to join a cohort")
    if isinstance(scheduler, dict):
        if scheduler.get("interval", "epoch") != "step" or scheduler.get("frequency", 1) != 1:
            raise ConfigError(
                f"{type(student).__name__}'s schedule must count local steps: set its interval to 'step'"
            )
        scheduler = scheduler["scheduler"]
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        raise ConfigError(f"{type(scheduler).__name__} is no schedule of local steps")
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigError("ReduceLROnPlateau waits for a metric; a cohort's schedules count local steps")
    return LocalOptimizer(asked, scheduler, scale)
