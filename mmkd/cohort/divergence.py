"""Which peers have diverged, by their weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.sequential import SequentialGroup


def diverged(group: Group, rows: Sequence[int]) -> int | None:
    """The first of ``rows`` whose weights are not finite, or so large that their squares are not.

    With such weights a product of two layers is infinite, and an average with them is theirs.
    """
    if isinstance(group, SequentialGroup):  # whose weights are stacked for whoever wants them stacked
        return next((row for row in rows if not _finite(group.student(row).parameters())), None)
    if _finite(group.parameters_of(rows).values()):
        return None
    return next((row for row in rows if not _finite(group.parameters_of([row]).values())), None)


@torch.no_grad()
def _finite(tensors: Iterable[Tensor]) -> bool:
    """Whether sums of squares are finite; in float32, where half precision would overflow early."""
    norms = [
        torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)).double()
        for t in tensors
    ]
    return not norms or bool(torch.stack(norms).sum().isfinite())
