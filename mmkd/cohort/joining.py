"""What the peers of a cohort tell other processes about themselves before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer

from mmkd.cohort.build import Built
from mmkd.cohort.coordinator import Coordination
from mmkd.cohort.identity import settings_of
from mmkd.cohort.precision import as_read
from mmkd.cohort.trial import learning
from mmkd.cost.flops import count_flops
from mmkd.data.base import PeerData
from mmkd.data.blocks import PrivateBatches
from mmkd.description import Setting
from mmkd.participation import Attendance, Trace
from mmkd.schedule import Schedule, Timetable
from mmkd.transport import Facts
from mmkd.types import ConfigError, PeerName


def coordination_of(trainer: Trainer) -> Coordination | None:
    """The callback that coordinates a trainer's cohort, if there is one.

    Raises:
        ConfigError: there are two.
    """
    coordinators = [c for c in trainer.callbacks if isinstance(c, Coordination)]  # type: ignore[attr-defined]  # untyped in Lightning
    if len(coordinators) > 1:
        raise ConfigError("two callbacks coordinate this cohort; give the trainer one")
    return coordinators[0] if coordinators else None


def join(
    planner: Coordination | None,
    built: Built,
    data: PeerData,
    dtype: torch.dtype,
    settings: Mapping[str, Any],
    *,
    may_leave: bool,
) -> tuple[Mapping[PeerName, Facts], Timetable]:
    """Facts of all peers and their timetable; without a planner no facts, and a timetable of this process.

    Args:
        planner: the callback that coordinates the cohort.
        built: the cohort's groups.
        data: of its peers.
        dtype: the cohort's precision, which an earlier fit may have left in its students.
        settings: of the cohort, by name.
        may_leave: whether peers that diverge sit out, so that somebody keeps attendance.

    Raises:
        ConfigError: a peer has no samples, or a setting of the planner has no meaning for these peers.
    """
    if planner is None:
        names = [member.name for member in built.members]
        attendance = Attendance(Trace({}), [], dict.fromkeys(names, 1), {}, 0)
        steps = {name: data.steps_per_epoch(name) for name in names}
        return {}, Schedule().timetable(steps, attendance if may_leave else None)
    here = {member.name for member in built.members}
    awaited = [member.name for member in built.everybody if member.name not in here]
    shared = shared_settings(built, data, planner, settings) if awaited else {}
    return planner.join(facts_of(built, data, dtype), awaited, shared, may_leave=may_leave)


def shared_settings(
    built: Built, data: PeerData, planner: Coordination, cohort: Mapping[str, Any]
) -> dict[str, Setting]:
    """Settings that must be the same in all processes: of data not their places, which machines choose."""
    found = settings_of(built, data, planner, cohort)
    places = [
        n
        for n, value in found.items()
        if n.startswith("data.") and n != "data.class" and isinstance(value, str)
    ]
    return {name: value for name, value in found.items() if name not in places}


def facts_of(built: Built, data: PeerData, dtype: torch.dtype) -> dict[PeerName, Facts]:
    """Facts of a cohort's peers, in canonical order; what is equal in a group is computed once.

    Raises:
        ConfigError: a peer has no samples.
    """
    ids = {member.name: member.id for member in built.members}
    found: dict[PeerName, Facts] = {}
    for group in built.groups:
        batch = as_read(PrivateBatches(data, group.names[0])[0], dtype)
        with learning(group.names[0], batch.x):
            flops = count_flops(group.student(0), batch)
        parameters = set(group.travelling(buffers=False))
        statistics = tuple(n for n in group.travelling(buffers=True) if n not in parameters)
        for name in group.names:
            found[name] = Facts(
                ids[name],
                built.modalities[name],
                data.samples_of(name),
                data.steps_per_epoch(name),
                data.samples_per_step(name),
                built.starts[name],
                group.shapes,
                statistics,
                flops.predict,
                flops.train,
            )
    return {name: found[name] for name in ids}
