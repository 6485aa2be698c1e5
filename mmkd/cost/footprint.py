"""Time and memory of one sample in a student, and of a local step, on one core."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mmkd.functional.random import keyed
from mmkd.students.base import Student
from mmkd.types import Batch, Views

REPEATS = 20
"""How many forward passes are timed; the latency is their median."""


class Footprint(NamedTuple):
    """Time and memory of a forward pass of one sample, in evaluation mode, or of a local step."""

    milliseconds: float  # median, on one core
    mebibytes: float  # weights, and the greatest memory of intermediate results
    parameters: int


@torch.inference_mode(False)
@torch.no_grad()
def footprint(student: Student, x: Views) -> Footprint:
    """Measure a student on the first of samples ``x``.

    Time depends on this machine and its load. Memory is counted from tensors and not measured, so it is the
    same everywhere.
    """
    # Copies, because Lightning tests in inference mode, whose tensors cannot be tracked.
    one: Any = tree_map(lambda t: t[:1].clone(), x)
    student = copy.deepcopy(student).eval()
    return _measured(student, lambda: student.predict(one))


@torch.inference_mode(False)
@torch.enable_grad()
def step_footprint(student: Student, batch: Batch) -> Footprint:
    """Measure a local step of a student on one core: its private loss, backward, and its own optimizer.

    Memory is that of weights, gradients, optimizer states and the greatest of intermediate results, counted
    as in ``footprint``. The schedule of learning rates is left out.

    Args:
        student: which is copied.
        batch: of a local step.
    """
    student = copy.deepcopy(student).train()
    configured: Any = student.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured

    def step() -> None:
        optimizer.zero_grad()
        with keyed(batch.key, student.device):
            student.private_loss(batch).backward()
        optimizer.step()

    return _measured(student, step)


def _measured(student: Student, work: Callable[[], object]) -> Footprint:
    """Time and memory of what a student does, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _Held() as held:
            work()  # what an optimizer keeps is made the first time
            work()
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    weights = sum(t.nbytes for t in [*student.parameters(), *student.buffers()])
    parameters = sum(p.numel() for p in student.parameters())
    return Footprint(1e3 * median(seconds), (weights + held.most) / 2**20, parameters)


class _Held(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._now, self.most = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                where = storage.data_ptr()
                if where not in given and where not in self._known:
                    self._known.add(where)
                    self._now += storage.nbytes()
                    self.most = max(self.most, self._now)
                    weakref.finalize(storage, self._gone, where, storage.nbytes())
        return results

    def _gone(self, where: int, nbytes: int) -> None:
        self._known.discard(where)
        self._now -= nbytes
