"""Synthetic(alpha, beta) of FedProx (Li et al. 2020, section 5.1): each peer has its own logistic model.

Peer k labels x with argmax softmax(W_k x + b_k), where the entries of W_k and b_k are N(u_k, 1) with
u_k ~ N(0, alpha), and x ~ N(v_k, Sigma) with Sigma_jj = j^-1.2, v_k's entries N(B_k, 1) and
B_k ~ N(0, beta). **alpha and beta are standard deviations**, as in the authors' code; the paper's text
reads as if they were variances. Sizes follow a power law: 50 + lognormal(4, 2) samples a peer.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from mmkd.bounds import MOST, AtLeastZero, Bound, SizeOrZero, bounded
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.functional.random import generator
from mmkd.students import Classifier

FEATURES = 60
"""Features of a sample."""


@bounded
class SyntheticLogistic(PeerDataModule):
    """Samples of sixty features and ten classes for as many peers as there are (the paper has 30).

    Of each peer's samples 80 % are for training, 10 % for validation and 10 % for tests; every peer is
    evaluated on the samples of all. Public samples are drawn from the model of one further peer.

    Args:
        alpha: standard deviation of the means of the peers' weights.
        beta: standard deviation of the means of the peers' inputs.
        iid: whether all peers have one model and one distribution, whatever alpha and beta are.
        largest: upper bound on the samples that a peer owns.
        public_samples: how many unlabelled samples all peers see.
        **kwargs: arguments of ``PeerDataModule``.
    """

    num_classes = 10
    modalities = ("vector",)

    def __init__(
        self,
        alpha: AtLeastZero = 1.0,
        beta: AtLeastZero = 1.0,
        *,
        iid: bool = False,
        largest: Annotated[int, Bound(10, MOST)] = 5000,
        public_samples: SizeOrZero = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alpha, self.beta, self.iid, self.largest = alpha, beta, iid, largest
        self.public_samples = public_samples

    def setup(self, stage: str) -> None:
        """Draw every peer's model and samples from a random stream of its own."""
        super().setup(stage)
        self._drawn = {peer: self._draw(self.ids[peer]) for peer in self.peers}
        self._together = {split: self._all(split) for split in ("val", "test")}

    def _draw(self, name: str, size: int | None = None) -> Samples:
        own = generator(self.seed, "synthetic", name)
        model = generator(self.seed, "synthetic", "common") if self.iid else own
        u, b = torch.randn(2, generator=model, dtype=torch.float64) * torch.tensor([self.alpha, self.beta])
        u, b = (u * 0, b * 0) if self.iid else (u, b)
        weight = u + torch.randn(10, FEATURES, generator=model, dtype=torch.float64)
        bias = u + torch.randn(10, generator=model, dtype=torch.float64)
        centre = b + (0 if self.iid else 1) * torch.randn(FEATURES, generator=model, dtype=torch.float64)
        drawn = 50 + int((4 + 2 * torch.randn((), generator=own, dtype=torch.float64)).exp())
        size = size if size is not None else min(drawn, self.largest)
        deviation = torch.arange(1, FEATURES + 1, dtype=torch.float64) ** -0.6  # of variances j^-1.2
        x = centre + deviation * torch.randn(size, FEATURES, generator=own, dtype=torch.float64)
        return Samples(x.float(), (x @ weight.T + bias).argmax(1))

    def private(self, peer: str, split: str) -> Dataset[Any]:
        """The peer's own samples for training, and the samples of all peers for validation and tests."""
        return self._part(peer, split) if split == "train" else self._together[split]

    def _all(self, split: str) -> Samples:
        """The samples of all peers: one object, so that evaluation reads it once."""
        parts = [self._part(name, split) for name in self.peers]
        return Samples(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))

    def _part(self, peer: str, split: str) -> Samples:
        samples = self._drawn[peer]
        tenth = len(samples) // 10
        bounds = {"train": (2 * tenth, len(samples)), "val": (0, tenth), "test": (tenth, 2 * tenth)}[split]
        return samples.subset(torch.arange(*bounds))

    def public(self, split: str) -> Dataset[Any]:
        """Inputs of a further peer, which takes no part in training."""
        return PublicSamples({"vector": self._draw("public\x1f" + split, self.public_samples).x})


class LogisticStudent(Classifier):
    """Multinomial logistic regression, whose embedding is the features themselves.

    Args:
        num_classes: number of classes.
        **kwargs: arguments of ``Classifier``.
    """

    modalities = ("vector",)

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=FEATURES, **kwargs)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])

    def embed(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """The features themselves."""
        return x
