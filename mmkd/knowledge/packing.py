"""Predictions as the tensors that cross the wire."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def pack(values: Tensor, spoken: Tensor, wire: torch.dtype) -> dict[str, Tensor]:
    """What crosses the wire: values of the samples spoken about, and which those are unless all."""
    if bool(spoken.all()):
        return {"values": values.to(wire)}
    bits = torch.nn.functional.pad(spoken.to(torch.uint8), (0, -len(spoken) % 8)).view(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
    return {"values": values[spoken].to(wire), "spoken": (bits * powers).sum(1).to(torch.uint8)}


def unpack(tensors: Mapping[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Values of ``size`` samples in single precision, zero where nothing was said, and where it was."""
    values = tensors["values"].float()
    if "spoken" not in tensors:
        return values, torch.ones(size, dtype=torch.bool, device=values.device)
    bits = tensors["spoken"].unsqueeze(1) >> torch.arange(8, device=values.device)
    spoken = (bits & 1).flatten()[:size].bool()
    full = values.new_zeros(size, *values.shape[1:])
    full[spoken] = values
    return full, spoken
