"""Who owns what: samples by peer and class, and how skewed that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.data.base import PeerData
from mmkd.types import ConfigError, Modality, PeerName


class Skew(NamedTuple):
    """How much the peers of a modality differ in what they own."""

    distance: float  # mean total variation distance of a peer's classes from those of all; 0 if all are alike
    classes: float  # mean of how many classes a peer has in effect: exp of the entropy of its shares
    imbalance: float  # samples of the most frequent class of all, for one of the rarest
    sizes: tuple[int, int, int]  # samples of the peer that has fewest, of the median one, and of the largest
    gini: float  # of the peers' numbers of samples; 0 if all have equally many


class Ownership(NamedTuple):
    """Who owns what."""

    classes: Sequence[str]  # names
    modalities: Mapping[PeerName, Modality]
    counts: Mapping[PeerName, Float[Tensor, " classes"]]  # private samples (or objects) of each class
    samples: Mapping[PeerName, int]  # private samples
    evaluated: Mapping[PeerName, tuple[int, int]]  # validation and test samples
    public: int  # public samples
    shown: Mapping[Modality, int]  # how many of them each modality shows

    def skew(self, modality: Modality) -> Skew:
        """How much the peers of a modality differ."""
        names = [name for name, own in self.modalities.items() if own == modality]
        counts = torch.stack([self.counts[name].double() for name in names])
        return skew(counts, [self.samples[name] for name in names])


def ownership(data: PeerData) -> Ownership:
    """Who owns what of data whose peers are assigned.

    Raises:
        ConfigError: some samples are wrong, or there are no public ones although there should be.
    """
    peers = list(data.peers)
    counts = {peer: data.label_counts(peer).double() for peer in peers}
    classes = getattr(data, "classes", None) or [str(i) for i in range(data.num_classes)]
    evaluated = {peer: (len(data.reader(peer, "val")), len(data.reader(peer, "test"))) for peer in peers}
    public, shown = 0, dict[Modality, int]()
    try:
        reader = data.public_reader("train")
    except ConfigError:  # methods that need public samples say so
        reader = None
    if reader is not None:
        public = len(reader)
        for places in torch.arange(public).split(512):
            for modality, there in reader.batch(places).shown.items():
                shown[modality] = shown.get(modality, 0) + int(there.sum())
    samples = {peer: data.samples_of(peer) for peer in peers}
    return Ownership(list(classes), dict(data.peers), counts, samples, evaluated, public, shown)


def skew(counts: Float[Tensor, "peers classes"], samples: Sequence[int]) -> Skew:
    """How much peers differ in what they own.

    Args:
        counts: samples of each peer and class.
        samples: of each peer.
    """
    has = counts[counts.sum(1) > 0]
    shares = has / has.sum(1, keepdim=True)
    all_ = counts.sum(0)
    entropy = -torch.special.xlogy(shares, shares).sum(1)
    sizes = torch.tensor(samples, dtype=torch.float64).sort().values
    n = len(sizes)
    rank = 2 * torch.arange(1, n + 1, dtype=torch.float64) - n - 1
    there = all_[all_ > 0]
    return Skew(
        float((shares - all_ / all_.sum()).abs().sum(1).mean() / 2) if len(has) else 0.0,
        float(entropy.exp().mean()) if len(has) else 0.0,
        float(there.max() / there.min()) if len(there) else 1.0,
        (int(sizes[0]), int(sizes[(n - 1) // 2]), int(sizes[-1])),
        float((rank * sizes).sum() / (n * sizes.sum())) if float(sizes.sum()) else 0.0,
    )
