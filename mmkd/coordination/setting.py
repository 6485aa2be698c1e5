"""The setting of a cluster, from which its aggregation tells before training whether it has a meaning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmkd.cohort.peers import Peers
from mmkd.coordination.members import Members
from mmkd.federated import Setting
from mmkd.participation import Attendance
from mmkd.topology import Topology
from mmkd.types import PeerName


def setting_of(
    members: Members,
    peers: Peers,
    topology: Topology,
    attendance: Attendance | None,
    optimizers: Mapping[PeerName, Optimizer],
    p: Tensor,
    *,
    begun: bool,
) -> Setting:
    """The setting of a cluster.

    Args:
        members: its peers.
        peers: all peers of the cohort, and facts of peers in other processes.
        topology: who hears whom among them.
        attendance: who takes part in which round; everybody, if None.
        optimizers: local ones of the peers in this process.
        p: weights of the peers.
        begun: whether this is a saved run, whose peers began with equal weights if they had to.
    """
    names, timetable = members.names, peers.timetable
    work = [timetable.work[peer] for peer in names]
    epochs = [peers.everybody[peer].steps_per_epoch for peer in names]
    return Setting(
        names,
        optimizers,
        [w.unit * w.most for w in work],
        clipped=peers.clipped,
        hub=topology.hub is not None,
        agree=topology.complete(names),
        fixed=topology.fixed,
        undirected=topology.sparse(names, 0).undirected,
        sampled=attendance is not None,
        drawn=attendance is None or attendance.participation.drawn,
        common=begun or members.common,
        whole_epochs=all(
            w.unit % n == 0 or (w.least == w.most and w.unit * w.most % n == 0)
            for w, n in zip(work, epochs, strict=True)
        ),
        p=p,
        q=attendance.chances(names) if attendance is not None else torch.ones_like(p),
        whole=members.whole,
    )
