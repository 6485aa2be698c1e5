"""Which way of training a group is faster here: measured, not guessed."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.reason import VectorizeError, why
from mmkd.cohort.groups.sequential import SequentialGroup
from mmkd.cohort.groups.stacked import StackedGroup
from mmkd.types import Batches

ROWS = 64
"""Peers that are timed; what they gain by training together does not shrink as they become more."""


class Choice(NamedTuple):
    """How a fleet trains, and why."""

    vectorized: bool
    seconds: tuple[float, float] | None  # a local step of the peers timed: vectorised, one after the other


def choose(group: Group, batches: Sequence[Batches]) -> Choice:
    """Time both paths on copies of some rows: gradients and optimizer steps on the batches of one step.

    The group itself, its random streams and its buffers are left as they were.
    """
    names = [name for same in batches for name in same.peers]
    rows = sorted(group.rows(names))
    names, ids = [group.names[row] for row in rows], [group.ids[row] for row in rows]
    students = [copy.deepcopy(student) for student in group.visit(rows)]
    try:
        stacked = StackedGroup(names, ids, students)
        for student in (*students, *stacked.students()):  # a copy does not know that it is in a cohort
            student._trainer = group.students()[0]._trainer
        stacked.build_optimizers([1.0] * len(names))
        fast = _seconds(stacked, batches)
    except (VectorizeError, RuntimeError) as error:
        fleet = names[0].rpartition("/")[0]
        warnings.warn(
            f"the peers of '{fleet}' train one after the other: {why(error.__cause__ or error)}", stacklevel=2
        )
        return Choice(False, None)
    slow = _seconds(SequentialGroup(names, ids, students), batches)
    return Choice(fast < slow, (fast, slow))


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
