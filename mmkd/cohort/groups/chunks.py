"""Chunks: how many peers go through their students together, within memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

BUDGET = 2**30
"""Bytes that a pass may hold for its backward; a constant, since dropout is drawn chunk by chunk."""
NEAR = 2**23
"""Bytes of weights and activations that a CPU works on together. More would exceed its cache, and blocks of
memory above 32 MiB are requested from the system and cleared anew every time."""
ENOUGH = 64
"""Number of peers from which a pass takes longer for its arithmetic than for its Python."""


def peers_together(held: int, weights: int, device: torch.device) -> int:
    """How many peers go through their students in one pass.

    Args:
        held: bytes that one peer holds for its backward.
        weights: bytes of its parameters.
        device: on which they compute.
    """
    most = max(1, BUDGET // max(held, 1))
    return min(most, max(ENOUGH, NEAR // max(held + weights, 1))) if device.type == "cpu" else most


def bytes_held(loss: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps from a forward pass for the backward pass."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss()
    return sum(held.values())


def rows_together(
    loss: Callable[..., Tensor],
    tensors: Mapping[str, Tensor],
    learned: Iterable[str],
    inputs: Sequence[Any],
    device: torch.device,
) -> int:
    """How many peers go through their students in one pass, from the memory that one row takes.

    Args:
        loss: of the row, as a function of its tensors and inputs.
        tensors: of the row, by the names that ``loss`` takes; copies, which get gradients.
        learned: names of those that are not frozen.
        inputs: of the loss.
        device: on which they compute.
    """
    for name in learned:
        tensors[name].requires_grad_()
    with torch.enable_grad():
        held = bytes_held(lambda: loss(tensors, *inputs))
    return peers_together(held, sum(t.nbytes for t in tensors.values()), device)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised this error because memory ran out, on a device or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def warn_of_memory(tried: int, now: int) -> None:
    """Warn that fewer peers go together from now on, after memory ran out."""
    warnings.warn(
        f"out of memory with {tried} peers at a time; going on with {now}: set model.peers_per_chunk to {now}"
        " to begin there",
        stacklevel=3,
    )
