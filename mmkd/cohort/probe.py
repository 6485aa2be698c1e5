"""Which way of training a group is faster here: measured, not guessed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import torch

from mmkd.cohort.group import Group
from mmkd.cohort.sequential import SequentialGroup
from mmkd.cohort.stacked import StackedGroup
from mmkd.types import Batches, ConfigError


def stacked_is_faster(group: SequentialGroup, batches: Sequence[Batches]) -> bool:
    """Time both paths on copies of the group: gradients and optimizer steps on the batches of one step.

    The group itself, its random streams and its buffers are left as they were.
    """
    students = [copy.deepcopy(student) for student in group.students()]
    sequential = SequentialGroup(group.names, group.ids, students)
    try:
        stacked = StackedGroup(group.names, group.ids, students)
        stacked.build_optimizers([1.0] * len(students))
        slow, fast = _seconds(sequential, batches), _seconds(stacked, batches)
    except (ConfigError, RuntimeError):  # something that torch cannot vectorise
        return False
    return fast < slow


def _seconds(group: Group, batches: Sequence[Batches], repeats: int = 4) -> float:
    """The least time of a step, the first left out."""
    rows = range(len(group.names))
    group.build_optimizers([1.0] * len(group.names))
    group.train()

    def step() -> None:
        for same in batches:
            group.differentiate(same, None, torch.Tensor.backward)
        group.advance(rows)

    step()
    return min(_timed(step) for _ in range(repeats))


def _timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
