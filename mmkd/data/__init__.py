"""Data of many peers: whose samples are whose, and which all can see."""

from mmkd.data.base import PeerData
from mmkd.data.peers import PeerDataModule
from mmkd.data.samples import PublicSamples, Samples

__all__ = ["PeerData", "PeerDataModule", "PublicSamples", "Samples"]
