"""The samples that a message is about: others are left out of it, and equal rows are in it once."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def named(ids: Int[Tensor, " samples"]) -> str:
    """A short name of samples in an order: those who speak about the same ones give the same name."""
    return blake2b(ids.to("cpu", torch.int64).numpy().tobytes(), digest_size=8).hexdigest()


SPOKEN = "spoken"
"""Name of the bits that say about which samples a message is."""
ALIKE = "alike"
"""Name of the numbers that say which row each of these samples has, where some have the same."""


def pack(
    encoded: Mapping[str, Tensor],
    spoken: Bool[Tensor, " samples"],
    alike: Int[Tensor, " samples"] | None = None,
) -> dict[str, Tensor]:
    """The rows ``[samples, ...]`` spoken about, and a bit for each sample that says which, unless all.

    Args:
        encoded: rows of all samples.
        spoken: those spoken about.
        alike: for each of them the first that has its row, if rows that are equal are to be sent once; the
            number of its row is sent for each sample, then, unless no two are equal.
    """
    first, more = spoken, dict[str, Tensor]()
    if alike is not None:
        first = spoken & (alike == torch.arange(len(alike), device=alike.device))
        if (count := int(first.sum())) < int(spoken.sum()):
            more[ALIKE] = (first.cumsum(0) - 1)[alike[spoken]].to(numbers(count))
    if not bool(spoken.all()):
        bits = torch.nn.functional.pad(spoken.to(torch.uint8), (0, -len(spoken) % 8)).view(-1, 8)
        powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
        more[SPOKEN] = (bits * powers).sum(1).to(torch.uint8)
    return {name: tensor[first] for name, tensor in encoded.items()} | more if more else dict(encoded)


def unpack(tensors: Mapping[str, Tensor], size: int) -> tuple[dict[str, Tensor], Tensor]:
    """Rows for all ``size`` samples, zero for those left out; and which samples were spoken about."""
    rows = {name: tensor for name, tensor in tensors.items() if name not in (SPOKEN, ALIKE)}
    device = next(iter(rows.values())).device
    if ALIKE in tensors:
        rows = {name: tensor[tensors[ALIKE].long()] for name, tensor in rows.items()}
    if SPOKEN not in tensors:
        return rows, torch.ones(size, dtype=torch.bool, device=device)
    bits = tensors[SPOKEN].unsqueeze(1) >> torch.arange(8, device=device)
    spoken = (bits & 1).flatten()[:size].bool()
    full = {name: rows_.new_zeros(size, *rows_.shape[1:]) for name, rows_ in rows.items()}
    for name, tensor in full.items():
        tensor[spoken] = rows[name]
    return full, spoken


def numbers(count: int) -> torch.dtype:
    """The type in which the number of one of ``count`` rows is sent."""
    return torch.uint8 if count <= 2**8 else torch.int16 if count <= 2**15 else torch.int32
