"""How weights are combined: one file a paper."""

from mmkd.federated.base import Aggregation
from mmkd.federated.fedavg import FedAvg

__all__ = ["Aggregation", "FedAvg"]
