"""How many peers may go through their students together."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

BUDGET = 2**30
"""Bytes that a pass may hold for its backward. The same everywhere, for a chunk draws its dropout as one."""
NEAR = 2**23
"""Bytes of weights and of what they hold that are worked on together on a CPU. More would not stay in its
cache, nor in memory that the process keeps: blocks above 32 MiB are fetched and cleared anew every time."""
ENOUGH = 64
"""Peers whose arithmetic outweighs the Python of a pass."""


def peers_together(held: int, weights: int, device: torch.device) -> int:
    """How many peers go through their students in one pass.

    Args:
        held: bytes that one peer holds for its backward.
        weights: bytes of its parameters.
        device: where.
    """
    most = max(1, BUDGET // max(held, 1))
    return min(most, max(ENOUGH, NEAR // max(held + weights, 1))) if device.type == "cpu" else most


def bytes_held(loss: Callable[[], Tensor]) -> int:
    """What autograd keeps of a forward until its backward."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss()
    return sum(held.values())


def out_of_memory(error: RuntimeError) -> bool:
    """Whether this is what torch says when memory is not to be had, on a device or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def warn_of_memory(tried: int, now: int) -> None:
    """Say that fewer go together from now on."""
    warnings.warn(
        f"out of memory with {tried} peers at a time; going on with {now}: set model.peers_per_chunk to {now}"
        " to begin there",
        stacklevel=3,
    )
