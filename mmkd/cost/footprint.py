"""Time and memory of one sample in a student, on one core."""

from __future__ import annotations

import copy
import time
import weakref
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mmkd.students.base import Student
from mmkd.types import Views

REPEATS = 20
"""How many forward passes are timed; the latency is their median."""


class Footprint(NamedTuple):
    """Time and memory of a forward pass of one sample, in evaluation mode."""

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
    threads = torch.get_num_threads()
    student = copy.deepcopy(student).eval()
    torch.set_num_threads(1)
    try:
        with _Held() as held:
            student.predict(one)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            student.predict(one)
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
