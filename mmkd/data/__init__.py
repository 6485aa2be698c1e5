"""Data of many peers: private samples of each, and public samples that all can see."""

from mmkd.data.base import PeerData
from mmkd.data.catalogued import CatalogueData
from mmkd.data.manifest import Folder, Manifest
from mmkd.data.peers import PeerDataModule
from mmkd.data.samples import PublicSamples, Samples

__all__ = ["CatalogueData", "Folder", "Manifest", "PeerData", "PeerDataModule", "PublicSamples", "Samples"]
