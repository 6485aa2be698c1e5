"""How weights are combined, apart from who hears whom and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.types import ConfigError, Modality, PeerName


class Aggregation(ABC):
    """Combines the weights of peers in clusters; peers of different clusters never mix.

    Args:
        among: the clusters: peers of one ``modality``, of one ``fleet``, ``all``, or named lists.
        weights: p_k of each peer: its ``samples`` or ``uniform``.
        buffers: ``average`` floating-point buffers such as normalisation statistics with the weights,
            or leave them ``local``. Integer counters are never averaged.
        optimizer_state: ``reset`` the local optimizers when weights have been combined, or ``keep``.
    """

    kind = "weights"

    def __init__(
        self,
        *,
        among: Literal["modality", "fleet", "all"] | dict[str, list[PeerName]] = "modality",
        weights: Literal["samples", "uniform"] = "samples",
        buffers: Literal["average", "local"] = "average",
        optimizer_state: Literal["reset", "keep"] = "reset",
    ) -> None:
        self.among, self.weights, self.buffers = among, weights, buffers
        self.optimizer_state = optimizer_state

    @abstractmethod
    def combine(
        self,
        weights: Mapping[str, Float[Tensor, "peers ..."]],
        adjacency: Bool[Tensor, "peers peers"],
        p: Float[Tensor, " peers"],
    ) -> dict[str, Float[Tensor, "peers ..."]]:
        """What each peer's weights become, from its own and those that it hears.

        Args:
            weights: of the peers of one cluster, by name.
            adjacency: row k: whom k hears.
            p: weight of each peer, not normalised.
        """

    def clusters(self, modalities: Mapping[PeerName, Modality]) -> list[list[PeerName]]:
        """The clusters, each in the order of ``modalities``; lone peers have nothing to combine.

        Raises:
            ConfigError: a named cluster has an unknown peer, or a peer is in two.
        """
        if isinstance(self.among, dict):
            listed = [peer for peers in self.among.values() for peer in peers]
            for peer in listed:
                if peer not in modalities:
                    raise ConfigError(f"aggregation.among names '{peer}', which is no peer")
                if listed.count(peer) > 1:
                    raise ConfigError(f"aggregation.among names '{peer}' twice")
            keys = {peer: name for name, peers in self.among.items() for peer in peers}
        else:
            keys = {peer: self._key(peer, modality) for peer, modality in modalities.items()}
        groups: dict[str, list[PeerName]] = {}
        for peer in modalities:
            if peer in keys:
                groups.setdefault(keys[peer], []).append(peer)
        return [peers for peers in groups.values() if len(peers) > 1]

    def _key(self, peer: PeerName, modality: Modality) -> str:
        return {"modality": modality, "fleet": peer.rsplit("/", 1)[0]}.get(str(self.among), "all")
