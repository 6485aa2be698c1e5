"""Consensus: what each listener makes of the predictions that it hears.

All rules share one call shape. Listener k hears speaker j where ``hears[k, j]``, and j counts on a
sample only where ``spoke[j, sample]``; a speaker whose values on a sample are not finite has not
spoken on it, so a peer that diverges stays silent instead of spreading. Teachers get no gradient.
Half precision is computed and returned in float32. A temperature per speaker is applied by dividing
the logits beforehand.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmkd.functional.classification import softmax
from mmkd.functional.graph import neighbours

Weights: TypeAlias = Float[Tensor, " speakers"] | Float[Tensor, "speakers samples"]
"""The weight of each speaker, or of each of its samples."""

_GRID = 2.0**36
"""Terms are rounded to multiples of 2^-36 before they are added up in float64."""
_AT_ONCE = 2**21
"""How many numbers are converted to double precision at a time, which bounds memory."""
_PAIRS, _SPARSE = 2**16, 32
"""Least number of listener-speaker pairs of a graph that is added up edge by edge, if it is sparse."""


def heard_sum(
    values: Float[Tensor, "speakers samples dim"],
    hears: Bool[Tensor, "listeners speakers"],
    spoke: Bool[Tensor, "speakers samples"],
    weights: Weights | None = None,
) -> tuple[Float[Tensor, "listeners samples dim"], Float[Tensor, "listeners samples"]]:
    """Weighted sum of the values that each listener hears, and the sum of their weights, in float64.

    Weights are one a speaker, or one for each of its samples.

    While sums stay below 2^17 the additions are exact, so the result has the same bits in whatever
    order the speakers stand, beside whichever other listeners, and on every host. The price is an
    error of at most 2^-37 (7e-12) for each term. Devices without float64 (Apple's) add in float32,
    and lose both.
    """
    rows, listeners = _rows(hears)
    total, weight = _heard(values, rows, spoke, weights)
    if len(rows) < listeners:
        total, weight = total.expand(listeners, -1, -1), weight.expand(listeners, -1)
    return total, weight


def _rows(hears: Bool[Tensor, "listeners speakers"]) -> tuple[Tensor, int]:
    """The graph as a matrix of 0 and 1, with one row if all listeners hear the same; and how many listen.

    The matrix is sparse where edges are few. Terms are rounded to a grid, so the sum has the same bits.
    """
    wide = torch.float32 if hears.device.type == "mps" else torch.float64
    listeners = len(hears)
    if listeners > 1 and torch.equal(hears[0], hears[-1]) and bool((hears == hears[0]).all()):
        hears = hears[:1]
    few = hears.numel() >= _PAIRS and int(torch.count_nonzero(hears)) * _SPARSE <= hears.numel()
    if not few or hears.device.type == "mps":
        return hears.to(wide), listeners
    edges = hears.nonzero().T
    ones = torch.ones(edges.shape[1], dtype=wide, device=hears.device)
    sparse = torch.sparse_coo_tensor(edges, ones, hears.shape, is_coalesced=True, check_invariants=False)
    return sparse, listeners


def _heard(
    values: Tensor, rows: Tensor, spoke: Tensor, weights: Weights | None
) -> tuple[Float[Tensor, "rows samples dim"], Float[Tensor, "rows samples"]]:
    """Sum of values and of weights for each of the different rows of a graph."""
    values, wide = values.detach(), rows.dtype
    # A sum is finite if all of its terms are; that of finite terms fails only beyond 1e38.
    present = spoke & values.sum(-1).isfinite()
    everybody = bool(present.all())
    # Zeros are filled in and not multiplied with, since zero times infinity is not a number.
    terms = values.to(wide) if everybody else values.to(wide).masked_fill(~present[..., None], 0.0)
    if everybody and weights is None:
        weight = (rows @ terms.new_ones(len(terms), 1)).expand(-1, terms.shape[1])
    else:
        share = present.to(wide)
        if weights is not None:
            given = weights.detach().to(wide).view(len(weights), -1)
            # The weight of a silent speaker may be anything.
            share = share * given.expand_as(share).masked_fill(~present, 0.0)
            terms = terms * share[..., None]
        weight = rows @ (share * _GRID).round_().div_(_GRID)
    # Not in place: given in double precision, the terms are the caller's own tensor.
    total = (rows @ (terms * _GRID).round_().div_(_GRID).flatten(1)).view(len(rows), *terms.shape[1:])
    return total, weight


def heard_mean(
    values: Float[Tensor, "speakers samples dim"],
    hears: Bool[Tensor, "listeners speakers"],
    spoke: Bool[Tensor, "speakers samples"],
    *,
    weights: Weights | None = None,
) -> tuple[Float[Tensor, "listeners samples dim"], Bool[Tensor, "listeners samples"]]:
    """Weighted mean of whatever speakers say (logits, embeddings), and whether anybody spoke.

    Where nobody spoke, or nobody of positive weight, the mean is zero.
    """
    rows, listeners = _rows(hears)
    # Some samples at a time: a copy in double precision of all that speakers say takes too much memory.
    size = max(1, _AT_ONCE // max(1, values[:, :1].numel()))
    means, covered = [], []
    for start in range(0, max(1, values.shape[1]), size):
        here = slice(start, start + size)
        some = weights[:, here] if weights is not None and weights.dim() > 1 else weights
        total, weight = _heard(values[:, here], rows, spoke[:, here], some)
        positive = weight > 0
        covered.append(positive)
        mean = total / weight.masked_fill(~positive, 1.0)[..., None]
        means.append(mean.to(_full(values.dtype)))
    mean, anybody = (parts[0] if len(parts) == 1 else torch.cat(parts, 1) for parts in (means, covered))
    if len(mean) < listeners:
        mean, anybody = mean.expand(listeners, -1, -1), anybody.expand(listeners, -1)
    return mean, anybody


def mean_probability(
    logits: Float[Tensor, "speakers samples classes"],
    hears: Bool[Tensor, "listeners speakers"],
    spoke: Bool[Tensor, "speakers samples"],
    *,
    temperature: float = 1.0,
    weights: Weights | None = None,
) -> tuple[Float[Tensor, "listeners samples classes"], Bool[Tensor, "listeners samples"]]:
    """Mean of the probabilities softmax(z / T) heard, uniform where nobody spoke; and whether anybody did."""
    mean, anybody = heard_mean(_softmax(logits, temperature), hears, spoke, weights=weights)
    return mean.masked_fill(~anybody[..., None], 1 / logits.shape[-1]), anybody


def mean_logit(
    logits: Float[Tensor, "speakers samples classes"],
    hears: Bool[Tensor, "listeners speakers"],
    spoke: Bool[Tensor, "speakers samples"],
    *,
    temperature: float = 1.0,
    weights: Weights | None = None,
) -> tuple[Float[Tensor, "listeners samples classes"], Bool[Tensor, "listeners samples"]]:
    """Softmax of the mean logits over T, uniform where nobody spoke; and whether anybody did."""
    mean, anybody = heard_mean(logits, hears, spoke, weights=weights)
    return _softmax(mean, temperature), anybody


def most_confident_speaker(
    confidence: Float[Tensor, "speakers samples"],
    hears: Bool[Tensor, "listeners speakers"],
    spoke: Bool[Tensor, "speakers samples"],
) -> tuple[Int[Tensor, "listeners samples"], Bool[Tensor, "listeners samples"]]:
    """Position of the heard speaker with the greatest confidence on each sample, and whether there is one.

    The first of equally confident speakers wins; where nobody spoke the position is 0.
    """
    scores = confidence.detach().masked_fill(~(spoke & confidence.isfinite()), -torch.inf)
    chosen = hears.new_zeros(len(hears), scores.shape[1], dtype=torch.long)
    anybody = torch.zeros_like(chosen, dtype=torch.bool)
    # The two most confident speakers of all come first: where most listeners hear most speakers, these settle
    # nearly all samples.
    for speaker in scores.argsort(dim=0, descending=True, stable=True)[:2]:
        new = hears[:, speaker] & ~anybody & (scores.gather(0, speaker[None]) > -torch.inf)
        chosen, anybody = torch.where(new, speaker, chosen), anybody | new
    rest = (~anybody).any(1).nonzero()[:, 0]
    if len(rest):
        near, there = neighbours(hears[rest])  # in ascending order, so that the first of equals wins
        best, place = scores[near].masked_fill(~there[:, :, None], -torch.inf).max(1)
        anybody[rest] = best > -torch.inf
        chosen[rest] = near.gather(1, place).masked_fill(~anybody[rest], 0)
    return chosen, anybody


def most_confident(
    logits: Float[Tensor, "speakers samples classes"],
    hears: Bool[Tensor, "listeners speakers"],
    spoke: Bool[Tensor, "speakers samples"],
    *,
    temperature: float = 1.0,
    confidence: Float[Tensor, "speakers samples"] | None = None,
) -> tuple[Float[Tensor, "listeners samples classes"], Bool[Tensor, "listeners samples"]]:
    """Sample by sample the probabilities of the most confident speaker heard, and whether anybody spoke.

    Confidence is the greatest class probability softmax(z / T) unless given (Lambda of Zhmoginov et
    al. 2023). Ties go to the first speaker; where nobody spoke the probabilities are uniform.
    """
    probabilities = _softmax(logits, temperature)
    spoke = spoke & probabilities.sum(-1).isfinite()
    ranking = probabilities.amax(-1) if confidence is None else confidence
    speaker, anybody = most_confident_speaker(ranking, hears, spoke)
    chosen = probabilities[speaker, torch.arange(logits.shape[1], device=logits.device)]
    return chosen.masked_fill(~anybody[..., None], 1 / logits.shape[-1]), anybody


def sharpen(probabilities: Float[Tensor, "*batch classes"], power: float) -> Float[Tensor, "*batch classes"]:
    """Probabilities raised to a power and normalised again: 1 changes nothing, infinity is the argmax.

    Raises:
        ValueError: the power is negative.
    """
    if power < 0:
        raise ValueError(f"power is {power}; a negative one would favour the least likely class")
    # Relative to the greatest, so that a large power cannot underflow all classes.
    raised = (probabilities / probabilities.amax(-1, keepdim=True)).pow(power)
    return raised / raised.sum(-1, keepdim=True)


def align(
    probabilities: Float[Tensor, "*batch samples classes"],
    spoken: Bool[Tensor, "*batch samples"],
    *,
    below: float = 1.0,
) -> Float[Tensor, "*batch samples classes"]:
    """Probabilities divided by their mean over the samples that somebody spoke about, and normalised again.

    Distribution alignment (Berthelot et al. 2020, ReMixMatch, section 3.1) with equally frequent classes: a
    class of which nobody is sure anywhere is believed in where it is likelier than elsewhere, instead of
    being lost to similar classes from one exchange to the next. Where no class is in danger, alignment costs
    a little accuracy. So probabilities stay as they are unless the mean of some class is below ``below``
    times an even share (it is being lost) or above 1 / ``below`` times it (it displaces others).
    """
    counted = probabilities.masked_fill(~spoken[..., None], 0.0)
    mean = counted.sum(-2, keepdim=True) / spoken.sum(-1)[..., None, None].clamp(min=1)
    tiny = torch.finfo(probabilities.dtype).tiny
    even = probabilities / mean.clamp(min=tiny)
    # Where nobody spoke about anything the mean is zero, and the probabilities are uniform already.
    even = even / even.sum(-1, keepdim=True)
    share = mean * probabilities.shape[-1]
    lost, swallowing = share.amin(-1, keepdim=True) < below, share.amax(-1, keepdim=True) * below > 1
    return torch.where(lost | swallowing, even, probabilities)


def entropy_reduction(
    probabilities: Float[Tensor, "*batch classes"], *, temperature: float = 0.1
) -> Float[Tensor, "*batch classes"]:
    """DS-FL's softmax(mean probability / T) (Itahara et al. 2020); T = 1 is not the identity."""
    return _softmax(probabilities, temperature)


def _full(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    return softmax(logits.detach().to(_full(logits.dtype)) / temperature)
