"""Calibration of peers' predictions, and agreement between peers.

A share of no samples is nan.
"""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmkd.functional.confidence import max_probability

LN_100 = log(100.0)
"""Bound of the logarithm of a temperature."""


def calibration_error(
    probabilities: Float[Tensor, "peers samples classes"], y: Int[Tensor, "peers samples"], *, bins: int = 15
) -> Float[Tensor, " peers"]:
    """Expected calibration error of each peer, between 0 and 1 (ECE; Guo et al. 2017, eq. 3).

    ECE = sum_m |B_m| / n |accuracy(B_m) - confidence(B_m)|, where B_m are the samples whose greatest
    probability lies in ((m - 1) / bins, m / bins].

    Args:
        probabilities: of classes.
        y: labels.
        bins: of equal width.

    Raises:
        ValueError: there are no bins.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; confidences fall into at least 1")
    confidence, named = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32)).max(-1)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    where = torch.bucketize(confidence, edges[1:-1])
    # |B_m| cancels: what is left of a bin is the sum of its samples' differences.
    gaps = confidence.new_zeros(len(confidence), bins).scatter_add(
        1, where, (named == y).to(confidence.dtype) - confidence
    )
    return gaps.abs().sum(1) / y.shape[1]


def temperature(
    logits: Float[Tensor, "peers samples classes"], y: Int[Tensor, "peers samples"], *, steps: int = 60
) -> Float[Tensor, " peers"]:
    """The temperature of each peer at which labels are likeliest (temperature scaling; Guo et al. 2017, 4.2).

    The mean negative log-likelihood is convex in the inverse temperature b; its derivative, the mean of
    E_p[z] - z_y with p = softmax(b z), grows with b and is halved upon. Where no temperature is best, because
    all samples are right or less are than by guessing, it ends at a bound: 0.01 or 100.

    Args:
        logits: of classes.
        y: labels.
        steps: of halving.
    """
    z = logits.double()
    right = z.gather(-1, y[..., None])[..., 0]
    low, high = z.new_full((len(z),), -LN_100), z.new_full((len(z),), LN_100)  # logarithms of b
    for _ in range(steps):
        middle = (low + high) / 2
        p = (middle.exp()[:, None, None] * z).softmax(-1)
        slope = ((p * z).sum(-1) - right).sum(1)
        low, high = torch.where(slope <= 0, middle, low), torch.where(slope <= 0, high, middle)
    return (-(low + high) / 2).exp().to(logits.dtype)


def agreement(
    predictions: Float[Tensor, "peers samples classes"], shown: Bool[Tensor, "peers samples"]
) -> Float[Tensor, "peers peers"]:
    """Share of the samples that two peers both see on which their most likely classes are equal.

    Args:
        predictions: logits or probabilities; where a peer sees nothing, they do not matter.
        shown: which samples each peer sees.
    """
    named = F.one_hot(predictions.argmax(-1), predictions.shape[-1]) * shown[..., None]
    votes, sight = named.flatten(1).float(), shown.float()  # whole numbers add up exactly
    return (votes @ votes.T) / (sight @ sight.T)


def mean_confidence(
    logits: Float[Tensor, "peers samples classes"], shown: Bool[Tensor, "peers samples"]
) -> Float[Tensor, " peers"]:
    """Mean of the greatest class probability over the samples that a peer sees."""
    return max_probability(logits).masked_fill(~shown, 0.0).sum(1) / shown.sum(1)
