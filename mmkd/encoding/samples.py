"""The samples about which a peer speaks: the others are left out of its message."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import torch
from jaxtyping import Int
from torch import Tensor


def named(ids: Int[Tensor, " samples"]) -> str:
    """A short name of samples in an order: those who speak about the same ones give the same name."""
    return blake2b(ids.to("cpu", torch.int64).numpy().tobytes(), digest_size=8).hexdigest()


def pack(encoded: Mapping[str, Tensor], spoken: Tensor) -> dict[str, Tensor]:
    """The rows ``[samples, ...]`` spoken about, and a bit for each sample that says which, unless all."""
    if bool(spoken.all()):
        return dict(encoded)
    bits = torch.nn.functional.pad(spoken.to(torch.uint8), (0, -len(spoken) % 8)).view(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
    rows = {name: tensor[spoken] for name, tensor in encoded.items()}
    return rows | {"spoken": (bits * powers).sum(1).to(torch.uint8)}


def unpack(tensors: Mapping[str, Tensor], size: int) -> tuple[dict[str, Tensor], Tensor]:
    """Rows for all ``size`` samples, zero for those left out; and which samples were sent."""
    rows = {name: tensor for name, tensor in tensors.items() if name != "spoken"}
    device = next(iter(rows.values())).device
    if "spoken" not in tensors:
        return rows, torch.ones(size, dtype=torch.bool, device=device)
    bits = tensors["spoken"].unsqueeze(1) >> torch.arange(8, device=device)
    spoken = (bits & 1).flatten()[:size].bool()
    full = {name: rows_.new_zeros(size, *rows_.shape[1:]) for name, rows_ in rows.items()}
    for name, tensor in full.items():
        tensor[spoken] = rows[name]
    return full, spoken
