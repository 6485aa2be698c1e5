"""Who hears whom in a round."""

from mmkd.topology.base import Topology
from mmkd.topology.fixed import (
    Complete,
    DirectedCycle,
    EdgeList,
    Hypercube,
    Islands,
    NetworkX,
    OnePeerExponential,
    Path,
    Ring,
    Star,
)
from mmkd.topology.random import (
    ErdosRenyi,
    RandomGraph,
    RandomMatching,
    RandomRegular,
    SmallWorld,
)

__all__ = [
    "Complete",
    "DirectedCycle",
    "EdgeList",
    "ErdosRenyi",
    "Hypercube",
    "Islands",
    "NetworkX",
    "OnePeerExponential",
    "Path",
    "RandomGraph",
    "RandomMatching",
    "RandomRegular",
    "Ring",
    "SmallWorld",
    "Star",
    "Topology",
]
