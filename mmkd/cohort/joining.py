"""What the peers of a cohort tell those in other processes of themselves."""

from __future__ import annotations

from collections.abc import Mapping

from mmkd.cohort.build import Built
from mmkd.cohort.coordinator import Coordination
from mmkd.cost.flops import count_flops
from mmkd.data.base import PeerData
from mmkd.data.blocks import PrivateBatches
from mmkd.schedule import Schedule, Timetable
from mmkd.transport import Facts
from mmkd.types import PeerName


def join(
    planner: Coordination | None, built: Built, data: PeerData
) -> tuple[Mapping[PeerName, Facts], Timetable]:
    """Facts of all peers, and when which of them steps; without a planner of those who need no other.

    Raises:
        ConfigError: a peer has no samples, or what is planned has no meaning for these peers.
    """
    if planner is None:
        return {}, Schedule().timetable({name: data.steps_per_epoch(name) for name in built.modalities})
    return planner.join(facts_of(built, data))


def facts_of(built: Built, data: PeerData) -> dict[PeerName, Facts]:
    """Facts of a cohort's peers, in canonical order; what is the same in a group is found once.

    Raises:
        ConfigError: a peer has no samples.
    """
    ids = {member.name: member.id for member in built.members}
    found: dict[PeerName, Facts] = {}
    for group in built.groups:
        flops = count_flops(group.student(0), PrivateBatches(data, group.names[0])[0])
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
