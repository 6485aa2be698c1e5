"""Participation: who takes part in a round, seeded, so that nothing needs to be saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.bounds import Count, SomeShare, Whole, bounded
from mmkd.functional.random import generator
from mmkd.types import ConfigError, PeerName


class Participation(ABC):
    """Draws the peers of a round, for each cluster by itself. Peers that sit out keep their weights."""

    drawn: ClassVar[bool] = True
    """Whether peers are drawn with ``chances``, so that dividing by them makes sums unbiased."""

    def check(self, peers: Sequence[PeerName]) -> None:
        """Refuse names that none of the cohort's peers has.

        Raises:
            ConfigError: a name is no peer's.
        """
        return

    @abstractmethod
    def chances(self, weights: Float[Tensor, " peers"]) -> Float[Tensor, " peers"]:
        """q_i = P(i in S) of each peer of a cluster, float64.

        Raises:
            ConfigError: that many peers cannot be drawn.
        """

    @abstractmethod
    def draw(
        self, peers: Sequence[PeerName], chances: Float[Tensor, " peers"], round: int, stream: torch.Generator
    ) -> Bool[Tensor, " peers"]:
        """The peers of the cluster that take part in that round."""


@bounded
class Sampled(Participation):
    """A fixed number of peers a round, drawn without replacement.

    Drawn systematically from a random order (Madow 1949), so that the chances are exact.

    Args:
        fraction: of each cluster, rounded, at least one peer; or
        count: of each cluster.
        weighted: chances in proportion to the peers' samples instead of equal ones (at most 1).
    """

    def __init__(
        self, fraction: SomeShare | None = None, count: Count | None = None, *, weighted: bool = False
    ) -> None:
        if (fraction is None) == (count is None):
            raise ConfigError("participation needs a fraction or a count, and not both")
        self.fraction, self.count, self.weighted = fraction, count, weighted

    def chances(self, weights: Float[Tensor, " peers"]) -> Float[Tensor, " peers"]:
        """Equal chances k/N, or chances in proportion to the weights."""
        size = len(weights)
        drawn = max(1, round(self.fraction * size)) if self.fraction is not None else int(self.count or 0)
        if drawn > size:
            raise ConfigError(f"participation cannot draw {drawn} of a cluster of {size} peers")
        share = weights.double() if self.weighted else torch.ones(size, dtype=torch.float64)
        chances = torch.zeros_like(share)
        certain = torch.zeros(size, dtype=torch.bool)
        while True:  # a chance above 1 becomes 1, and the other peers share the rest
            open_ = ~certain
            left = drawn - int(certain.sum())
            chances[certain] = 1.0
            if left == 0 or not bool(open_.any()):
                return chances.masked_fill(open_, 0.0) if left == 0 else chances
            chances[open_] = left * share[open_] / share[open_].sum()
            over = open_ & (chances > 1)
            if not bool(over.any()):
                return chances
            certain |= over

    def draw(
        self, peers: Sequence[PeerName], chances: Float[Tensor, " peers"], round: int, stream: torch.Generator
    ) -> Bool[Tensor, " peers"]:
        """Peers whose interval contains an integer, where intervals of length q_i lie end to end."""
        order = torch.randperm(len(peers), generator=stream)
        start = float(torch.rand((), generator=stream, dtype=torch.float64))
        ends = (chances[order].cumsum(0) + start).add(1e-12).floor()
        begins = torch.cat([ends.new_tensor([float(int(start))]), ends[:-1]])
        present = torch.zeros(len(peers), dtype=torch.bool)
        present[order] = ends > begins
        return present


@bounded
class Trace(Participation):
    """Peers that join late, leave, or come and go.

    Args:
        present: for each peer the rounds in which it takes part, as [first, last] pairs, both included;
            a peer that is not named always does.
    """

    drawn: ClassVar[bool] = False

    def __init__(self, present: dict[PeerName, list[list[Whole]]]) -> None:
        for peer, spans in present.items():
            for span in spans:
                if len(span) != 2 or span[0] > span[1] or span[0] < 0:
                    raise ConfigError(f"participation: {span} of '{peer}' is no pair [first, last] of rounds")
        self.present = present

    def check(self, peers: Sequence[PeerName]) -> None:
        """Refuse names that none of the cohort's peers has."""
        for name in self.present:
            if name not in peers:
                raise ConfigError(f"participation names '{name}', which is no peer")

    def chances(self, weights: Float[Tensor, " peers"]) -> Float[Tensor, " peers"]:
        """Chances of 1, since nothing is drawn."""
        return torch.ones(len(weights), dtype=torch.float64)

    def draw(
        self, peers: Sequence[PeerName], chances: Float[Tensor, " peers"], round: int, stream: torch.Generator
    ) -> Bool[Tensor, " peers"]:
        """The peers whose pairs [first, last] contain the round."""
        whole = [[round, round]]
        spans = [self.present.get(peer, whole) for peer in peers]
        return torch.tensor([any(first <= round <= last for first, last in s) for s in spans])


@dataclass
class Attendance:
    """Who takes part in which round: a pure function of the round, cached, without those who have left."""

    participation: Participation
    clusters: Sequence[Sequence[PeerName]]  # a peer in none takes part in every round
    samples: Mapping[PeerName, int]
    ids: Mapping[PeerName, str]
    seed: int
    _present: dict[int, frozenset[PeerName]] = field(default_factory=dict)
    _left: dict[PeerName, int] = field(default_factory=dict)  # since when peers are absent for good

    def leave(self, peer: PeerName, round: int) -> None:
        """Leave a peer out from that round on, whatever is drawn; what rounds before it had stays."""
        self._left[peer] = round
        self._present.clear()

    def chances(self, cluster: Sequence[PeerName]) -> Float[Tensor, " peers"]:
        """q_i of the peers of a cluster."""
        return self.participation.chances(torch.tensor([float(self.samples[peer]) for peer in cluster]))

    def present(self, round: int) -> frozenset[PeerName]:
        """The peers of a round."""
        if round not in self._present:
            if len(self._present) > 64:
                self._present.clear()
            names = list(self._always)
            for cluster, ids, chances in zip(self.clusters, self._ids, self._chances, strict=True):
                stream = generator(self.seed, "participation", round, *ids)
                drawn = self.participation.draw(cluster, chances, round, stream)
                names += [cluster[i] for i in drawn.nonzero()[:, 0].tolist()]
            left = {peer for peer, since in self._left.items() if since <= round}
            self._present[round] = frozenset(names) - left
        return self._present[round]

    @cached_property
    def _always(self) -> list[PeerName]:
        clustered = {peer for cluster in self.clusters for peer in cluster}
        return [peer for peer in self.samples if peer not in clustered]

    @cached_property
    def _ids(self) -> list[list[str]]:
        return [[self.ids[peer] for peer in cluster] for cluster in self.clusters]

    @cached_property
    def _chances(self) -> list[Float[Tensor, " peers"]]:
        return [self.chances(cluster) for cluster in self.clusters]
