"""Partitions of private samples among peers, as classes that a configuration can name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from mmkd.bounds import AtLeastZero, Positive, Size, Whole, bounded
from mmkd.functional import partition


class Partition(ABC):
    """Splits samples among peers by their labels, with a function of ``mmkd.functional.partition``."""

    @abstractmethod
    def __call__(self, labels: Int[Tensor, " samples"], peers: int, seed: int) -> list[Int[Tensor, " _"]]:
        """The sorted positions of each peer's samples.

        Raises:
            ValueError: there is no such split.
        """


@dataclass(frozen=True)
class IID(Partition):
    """Shares drawn at random, equal in size."""

    def __call__(self, labels: Int[Tensor, " samples"], peers: int, seed: int) -> list[Int[Tensor, " _"]]:
        """The sorted positions of each peer's samples."""
        return partition.iid(labels, peers, seed=seed)


@bounded
@dataclass(frozen=True)
class Dirichlet(Partition):
    """Shares of each class drawn from Dirichlet(alpha).

    Args:
        alpha: small is skewed, large is near IID.
        min_size: samples that every peer has at least.
        balance: keep peers that have their mean share out of further classes.
    """

    alpha: Positive = 0.1
    min_size: Whole = 0
    balance: bool = False

    def __call__(self, labels: Int[Tensor, " samples"], peers: int, seed: int) -> list[Int[Tensor, " _"]]:
        """The sorted positions of each peer's samples."""
        return partition.dirichlet(
            labels, peers, alpha=self.alpha, min_size=self.min_size, balance=self.balance, seed=seed
        )


@bounded
@dataclass(frozen=True)
class DirichletPerPeer(Partition):
    """Equal shares; each peer draws class frequencies from Dirichlet(alpha * prior). Few may have no owner.

    Args:
        alpha: small is skewed, large is near IID.
    """

    alpha: Positive = 0.1

    def __call__(self, labels: Int[Tensor, " samples"], peers: int, seed: int) -> list[Int[Tensor, " _"]]:
        """The sorted positions of each peer's samples."""
        return partition.dirichlet_per_peer(labels, peers, alpha=self.alpha, seed=seed)


@bounded
@dataclass(frozen=True)
class Shards(Partition):
    """Samples sorted by label, cut into shards that are dealt at random.

    Args:
        per_peer: shards that each peer gets.
    """

    per_peer: Size = 2

    def __call__(self, labels: Int[Tensor, " samples"], peers: int, seed: int) -> list[Int[Tensor, " _"]]:
        """The sorted positions of each peer's samples."""
        return partition.shards(labels, peers, per_peer=self.per_peer, seed=seed)


@bounded
@dataclass(frozen=True)
class QuantitySkew(Partition):
    """Shares of similar label frequencies, whose sizes are drawn from Dirichlet(beta).

    Args:
        beta: small is skewed, large is near equal.
        min_size: samples that every peer has at least.
    """

    beta: Positive = 0.5
    min_size: Whole = 0

    def __call__(self, labels: Int[Tensor, " samples"], peers: int, seed: int) -> list[Int[Tensor, " _"]]:
        """The sorted positions of each peer's samples."""
        return partition.quantity_skew(labels, peers, beta=self.beta, min_size=self.min_size, seed=seed)


@bounded
@dataclass(frozen=True)
class MHDSkew(Partition):
    """Each peer gets more of its primary labels, as in Multi-Headed Distillation.

    Args:
        skew: how much more; 0 is IID.
        primary: primary labels of each peer.
    """

    skew: AtLeastZero = 100.0
    primary: Size = 2

    def __call__(self, labels: Int[Tensor, " samples"], peers: int, seed: int) -> list[Int[Tensor, " _"]]:
        """The sorted positions of each peer's samples."""
        return partition.mhd_skew(labels, peers, skew=self.skew, primary=self.primary, seed=seed)
