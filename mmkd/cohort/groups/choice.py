"""The choice between the two ways of training a group: a function of students, batches and device alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.reason import VectorizeError, why
from mmkd.cohort.groups.sequential import apart
from mmkd.cohort.groups.stacked import StackedGroup
from mmkd.functional.random import keyed
from mmkd.students.base import Student
from mmkd.types import Batch, Batches

ROWS = 2
"""How many peers try whether their students can be vectorised."""
BOUND = 1.55e6
"""Operations of convolutions for each call of torch, from which on a CPU they and not Python take the time.

Measured with ``scripts/bench/ways.py`` on two cores of an AMD EPYC (2026-11-29, one thread, batches of 16), a
loop's time over that of a vectorised step:

    million operations a call    student                       4 peers   16 peers
    0                            perceptron, 64                   2.29       6.78
    0                            perceptron, 3 x 512              1.04       1.09
    0.26                         mobilenetv3_small_050            1.34       1.70
    0.29                         AudioStudent                     1.28       1.55
    0.31                         two convolutions, 16             1.58       1.89
    0.45                         TextStudent                      1.68       2.32
    1.51                         residual network, 8              1.26       1.07
    1.58                         VisionStudent                    0.94       0.85
    3.49                         resnet10t                        1.03       0.92
    4.05                         convnext_atto                    0.82       0.81
    4.72                         two convolutions, 64             1.07       0.82

Two students stand close to the bound, on either side of it; by how much either way wins there is little.
"""


class Choice(NamedTuple):
    """How a fleet trains, and why."""

    vectorized: bool
    reason: str


def choose(group: Group, batches: Sequence[Batches]) -> Choice:
    """How a group trains: side by side, unless torch cannot, or convolutions on a CPU take the time.

    Neither clocks nor other processes matter, so that two runs of one configuration are equal. The group, its
    random streams and its buffers are left as they were.

    Args:
        group: whose students train one after the other or not.
        batches: of the first ``ROWS`` peers that read one, in one step.
    """
    names = [name for same in batches for name in same.peers]
    rows = sorted(group.rows(names))
    names, ids = [group.names[row] for row in rows], [group.ids[row] for row in rows]
    students = [copy.deepcopy(student) for student in group.visit(rows)]
    first = next(apart(batches[0]))
    try:
        stacked = StackedGroup(names, ids, students)
        for student in (*students, *stacked.students()):  # a copy does not know that it is in a cohort
            student._trainer = group.students()[0]._trainer
        stacked.build_optimizers([1.0] * len(names))
        stacked.train()
        for same in batches:
            stacked.differentiate(same, None, torch.Tensor.backward)
        stacked.advance(range(len(names)))
    except (VectorizeError, RuntimeError) as error:
        reason, fleet = why(error.__cause__ or error), names[0].rpartition("/")[0]
        warnings.warn(f"the peers of '{fleet}' train one after the other: {reason}", stacklevel=2)
        return Choice(False, reason)
    device = students[0].device.type
    if device != "cpu":
        return Choice(True, f"on {device}")
    found = convolutions(students[0], first)
    words = f"{found / 1e6:.2f} million operations of convolutions for each call of torch on a CPU"
    return Choice(found < BOUND, f"{words}, {'below' if found < BOUND else 'not below'} {BOUND / 1e6:.2f}")


class _Calls(TorchDispatchMode):
    """Counts calls of torch."""

    number = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return call(*args, **(kwargs or {}))


def convolutions(student: Student, batch: Batch) -> float:
    """Operations of a student's convolutions in a step, forward and backward, for each call of torch."""
    operations, calls = FlopCounterMode(display=False), _Calls()  # type: ignore[no-untyped-call]  # torch has no types here
    with keyed(batch.key, student.device), operations:
        copy.deepcopy(student).train().private_loss(batch).backward()
    with keyed(batch.key, student.device), calls:
        copy.deepcopy(student).train().private_loss(batch).backward()
    counted = operations.get_flop_counts()["Global"]
    return sum(n for call, n in counted.items() if "conv" in str(call)) / calls.number
