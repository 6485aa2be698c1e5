"""Statistics of sequences ``[..., length]`` whose ends are padding: it has no part in them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def kept(lengths: Int[Tensor, " batch"], size: int) -> Bool[Tensor, "batch size"]:
    """Which of ``size`` positions are there."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(-1)


def mirrored(x: Float[Tensor, "batch length"], lengths: Int[Tensor, " batch"], edge: int) -> Tensor:
    """Sequences with ``edge`` more positions at either end, in which they are mirrored.

    The last position of the sequence itself is the mirror, and not the last one of its padding. A sequence
    that is shorter than ``edge`` is mirrored to and fro.
    """
    place = torch.arange(-edge, x.shape[-1] + edge, device=x.device)
    period = (2 * (lengths - 1)).clamp(min=1).unsqueeze(-1)
    place = place.abs() % period
    return x.gather(-1, torch.minimum(place, period - place).clamp(max=x.shape[-1] - 1))


def standardised(
    x: Float[Tensor, "batch length"], lengths: Int[Tensor, " batch"], *, eps: float
) -> Float[Tensor, "batch length"]:
    """Sequences of zero mean and unit variance, with zeros behind their ends."""
    keep, count = kept(lengths, x.shape[-1]), lengths.clamp(min=1).unsqueeze(-1)
    centred = (x - (x * keep).sum(-1, keepdim=True) / count) * keep
    return centred / (centred.square().sum(-1, keepdim=True) / count + eps).sqrt()


def group_norm(
    x: Float[Tensor, "batch channels length"],
    lengths: Int[Tensor, " batch"],
    groups: int,
    weight: Float[Tensor, " channels"],
    bias: Float[Tensor, " channels"],
    eps: float,
) -> Float[Tensor, "batch channels length"]:
    """Group normalisation (Wu and He 2018), with zeros behind the ends of sequences."""
    keep = kept(lengths, x.shape[-1]).unsqueeze(1)
    wide = torch.promote_types(x.dtype, torch.float32)  # sums of half-precision numbers are too coarse
    grouped = (x.to(wide) * keep).unflatten(1, (groups, -1))
    count = (lengths.clamp(min=1) * grouped.shape[2]).view(-1, 1, 1, 1)
    centred = (grouped - grouped.sum((2, 3), keepdim=True) / count) * keep.unsqueeze(1)
    deviation = (centred.square().sum((2, 3), keepdim=True) / count + eps).sqrt()
    normal = (centred / deviation).flatten(1, 2).to(x.dtype)
    scaled: Tensor = (normal * weight.unsqueeze(-1) + bias.unsqueeze(-1)) * keep
    return scaled
