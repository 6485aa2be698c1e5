"""What makes a run the one that it is: settings that decide what is computed, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd.cohort.build import Built
from mmkd.cohort.coordinator import Coordination
from mmkd.cohort.groups.local_optimizer import local_optimizer
from mmkd.data.base import PeerData
from mmkd.description import Setting, arguments, described

SETTINGS = "mmkd_settings"
"""Key of a run's settings in its checkpoints."""
READING = "num_workers"
"""The argument of data that decides how fast they are read, and not what."""


def settings_of(
    built: Built, data: PeerData, coordination: Coordination | None, cohort: Mapping[str, Any]
) -> dict[str, Setting]:
    """Settings of a run by dotted names, as a configuration has them where it can say them.

    Which device, logger, transport or path of a local step is taken, and how long the run is, are not among
    them: a run may go on with others.

    Args:
        built: the groups of the peers.
        data: of the peers.
        coordination: has the settings of a method, if there is one.
        cohort: further settings by name.
    """
    found: dict[str, Setting] = dict(described("model", cohort))
    for fleet, group in zip(built.fleets, built.groups, strict=True):
        student, scale = group.students()[0], [m.scale for m in built.everybody if m.fleet == fleet]
        key = f"model.peers.{fleet}"
        local = local_optimizer(student)
        found |= dict(described(f"{key}.count", len(scale)))
        found |= dict(described(f"{key}.learning_rate_scale", scale))
        found |= dict(described(f"{key}.student", dict(enumerate(map(str.strip, str(student).splitlines())))))
        made: dict[Any, Any] = {"class": type(local.optimizer), **dict(enumerate(local.settings))}
        found |= dict(described(f"{key}.student.optimizer", made))
        found |= dict(described(f"{key}.student.scheduler", _schedule(local.scheduler)))
    given = {name: value for name, value in arguments(data).items() if name != READING}
    found |= dict(described("data", {"class": type(data), **given}))
    found |= {f"data.peers.{peer}.samples": data.samples_of(peer) for peer in data.own}
    found |= dict(described("decentralized", coordination.settings if coordination is not None else {}))
    return found


def _schedule(schedule: Any) -> Any:
    """Settings of a schedule, those of the schedules that it is made of among them; not where it stands."""
    if schedule is None:
        return None
    own = {n: v for n, v in vars(schedule).items() if n[0] != "_" and n not in ("optimizer", "last_epoch")}
    parts = [_schedule(part) for part in getattr(schedule, "_schedulers", [])]
    return {"class": type(schedule), **own, **dict(enumerate(parts))}


def differences(saved: Mapping[str, Setting], own: Mapping[str, Setting], most: int = 3) -> str:
    """The settings that differ, in words; empty if none does.

    Args:
        saved: settings of a checkpoint.
        own: those of this run.
        most: how many are told in full.
    """
    names = [name for name in {**saved, **own} if saved.get(name) != own.get(name)]
    told = [f"{name} was {saved.get(name)!r} and is {own.get(name)!r}" for name in names[:most]]
    return "; ".join([*told, *([f"{len(names) - most} more"] if len(names) > most else [])])
