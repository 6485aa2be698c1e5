"""Samples of which nearly the same is said, so that one row may stand for several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 64
"""Samples whose distances to all others are held in memory at a time."""


def first_alike(
    statements: Sequence[tuple[Float[Tensor, "rows samples _"], bool]],
    of: Bool[Tensor, "rows samples"],
    near: float,
) -> Int[Tensor, "rows samples"]:
    """For each sample the first that stands for it, which is itself, if none before it is near enough.

    A greedy cover, as of leader clustering (Hartigan 1975): in the order of samples, each that nobody stands
    for yet stands for itself and for all later ones that are near and have nobody. Those that stand for
    others stand for themselves, so no error adds up.

    Args:
        statements: what is said, and whether distances are in units of the greatest number of the row that
            stands for others. A distance is that of the numbers that differ most.
        of: samples that may stand for others, and have others stand for them.
        near: the greatest distance in any of the statements.
    """
    samples = of.shape[1]
    first = torch.arange(samples, device=of.device).expand(of.shape).clone()
    left = of.clone()
    for start in range(0, samples, BLOCK):
        if not bool(left[:, start : start + BLOCK].any()):
            continue
        close = _close(statements, start, near)
        for i in range(close.shape[1]):
            place = start + i
            covers = close[:, i] & left & left[:, place, None]
            covers[:, : place + 1] = False
            first.masked_fill_(covers, place)
            left &= ~covers
    return first


def _close(
    statements: Sequence[tuple[Float[Tensor, "rows samples _"], bool]], start: int, near: float
) -> Bool[Tensor, "rows block samples"]:
    """Which samples are near to each of a block's."""
    close = []
    for values, relative in statements:
        block = values[:, start : start + BLOCK].float()
        distance = torch.cdist(block, values.float(), p=torch.inf)
        scale = block.abs().amax(-1, keepdim=True) if relative else 1.0
        close.append(distance <= near * scale)
    return torch.stack(close).all(0)
