"""The optimizers of a cohort, after the choice how each of its groups trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.choice import ROWS, Choice, choose
from mmkd.cohort.groups.row_optimizer import CohortOptimizer
from mmkd.cohort.groups.stacked import StackedGroup
from mmkd.data.base import PeerData
from mmkd.data.blocks import PrivateBatches, side_by_side
from mmkd.types import Batches


def choices_of(
    groups: Sequence[Group],
    fleets: Sequence[str],
    data: PeerData,
    to_device: Callable[[list[Batches]], list[Batches]],
) -> dict[str, Choice]:
    """How each fleet of several peers is to train, by the first batches of some of its peers."""
    choices = {}
    for fleet, group in zip(fleets, groups, strict=True):
        if len(group.names) > 1:
            first = {name: PrivateBatches(data, name).read(range(1)) for name in group.names[:ROWS]}
            choices[fleet] = choose(group, to_device(side_by_side(first)[0]))
    return choices


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
