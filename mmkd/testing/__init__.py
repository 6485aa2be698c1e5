"""Checks of your own extensions, for your own tests: each fault is one failing line.

from mmkd.testing import check_aggregation

def test_median() -> None:
check_aggregation(Median)
"""

from mmkd.testing.aggregations import check_aggregation
from mmkd.testing.consensus import check_consensus
from mmkd.testing.knowledge import check_knowledge
from mmkd.testing.students import check_student
from mmkd.testing.topologies import check_topology
from mmkd.testing.transports import check_transport

__all__ = [
    "check_aggregation",
    "check_consensus",
    "check_knowledge",
    "check_student",
    "check_topology",
    "check_transport",
]
