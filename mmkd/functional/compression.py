"""Compression of tensors, row by row: top-k and stochastic quantisation."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


def top_k(x: Float[Tensor, "peers size"], k: int) -> tuple[Float[Tensor, "peers k"], Int[Tensor, "peers k"]]:
    """The k entries of each row that are largest in magnitude, and where they are (int32)."""
    places = x.abs().topk(k, dim=1).indices.sort(dim=1).values
    return x.gather(1, places), places.int()


def from_top_k(
    values: Float[Tensor, "peers k"], places: Int[Tensor, "peers k"], size: int
) -> Float[Tensor, "peers size"]:
    """Rows of ``size`` entries: those that ``top_k`` kept, and zeros."""
    return values.new_zeros(len(values), size).scatter_(1, places.long(), values)


def quantise(
    x: Float[Tensor, "peers size"], bits: int, noise: Float[Tensor, "peers size"]
) -> tuple[UInt8[Tensor, "peers packed"], Float[Tensor, "peers 1"]]:
    """Round each row at random to 2^bits - 1 levels between -max|x| and max|x|, without bias (QSGD).

    Args:
        x: rows.
        bits: 8, or 4 (two codes a byte).
        noise: uniform in [0, 1).

    Returns:
        codes, and the scale of each row: x is about ``scale * (code - (2^(bits-1) - 1))``.

    Reference: Alistarh et al. 2017, section 3.1, with the maximum norm.
    """
    half = 2 ** (bits - 1) - 1
    scale = x.abs().amax(1, keepdim=True) / half
    ratio = torch.where(scale > 0, x / scale, 0)
    codes = ((ratio + noise).floor().clamp(-half, half) + half).to(torch.uint8)
    if bits == 4:
        even = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2))
        codes = even[:, ::2] | (even[:, 1::2] << 4)
    return codes, scale


def from_quantised(
    codes: UInt8[Tensor, "peers packed"], scale: Float[Tensor, "peers 1"], bits: int, size: int
) -> Float[Tensor, "peers size"]:
    """The rows that ``quantise`` made codes of, up to its rounding."""
    if bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=2).flatten(1)[:, :size]
    centred: Tensor = codes.to(scale.dtype) - (2 ** (bits - 1) - 1)
    return scale * centred
