"""The optimizers of a cohort, after the choice how each of its groups trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.row_optimizer import CohortOptimizer
from mmkd.cohort.groups.stacked import StackedGroup


def optimizer_of(
    groups: Sequence[Group],
    scales: Sequence[Sequence[float]],
    chunk: int | None,
    record: Literal["never", "record", "inductor"],
) -> CohortOptimizer:
    """Give every peer the optimizer that its student asks for, and Lightning the one that steps them all.

    Args:
        groups: as they will train.
        scales: of the learning rates of each group's peers.
        chunk: how many peers of a stack go through their students together; computed, if None.
        record: how a vectorised step is recorded.
    """
    for group, own in zip(groups, scales, strict=True):
        group.build_optimizers(own)
        if isinstance(group, StackedGroup):
            group.chunk = chunk
            if record != "never":
                group.record(compile=record == "inductor")
    return CohortOptimizer(groups)
