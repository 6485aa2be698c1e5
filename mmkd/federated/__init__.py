"""How weights are combined: the federated family and gossip, one file a paper."""

from mmkd.federated.base import Aggregation, Combination
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.fedbuff import FedBuff
from mmkd.federated.feddf import FedDF
from mmkd.federated.fedlin import FedLin
from mmkd.federated.fednova import FedNova
from mmkd.federated.fedopt import FedAdagrad, FedAdam, FedYogi
from mmkd.federated.fedprox import FedProx
from mmkd.federated.fedshuffle import FedShuffle
from mmkd.federated.gossip import Gossip, GradientTracking, PushSum
from mmkd.federated.heterofl import HeteroFL
from mmkd.federated.mime import Mime
from mmkd.federated.round import Round, Setting
from mmkd.federated.scaffold import Scaffold

__all__ = [
    "Aggregation",
    "Combination",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedBuff",
    "FedDF",
    "FedLin",
    "FedNova",
    "FedProx",
    "FedShuffle",
    "FedYogi",
    "Gossip",
    "GradientTracking",
    "HeteroFL",
    "Mime",
    "PushSum",
    "Round",
    "Scaffold",
    "Setting",
]
