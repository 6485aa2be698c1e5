"""Norms of weights, one number a peer, that are not finite where a weight or a statistic is not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def row_norms(tensors: Mapping[str, Tensor], buffers: Collection[str]) -> Float[Tensor, " rows"]:
    """L2 norm of each row's parameters, float64.

    Squares are added up in float32 at least, where those of half precision would overflow early; a weight
    whose square is too large even for that has an infinite norm.

    Args:
        tensors: of all rows, ``[rows, ...]``, by name.
        buffers: names of those that are no parameters: they count as 0, or make a norm that is not finite.
    """
    norms, statistics = list[Tensor](), list[Tensor]()
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            wide = torch.promote_types(tensor.dtype, torch.float32)
            norm = torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1, dtype=wide).double()
            (statistics if name in buffers else norms).append(norm)
    total = torch.stack(norms or [0 * norm for norm in statistics]).square().sum(0).sqrt()
    return total + 0 * torch.stack(statistics).sum(0) if statistics else total


def student_norm(parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> Float[Tensor, ""]:
    """L2 norm of one student's parameters, as in ``row_norms``."""
    named = {str(i): p[None] for i, p in enumerate(parameters)}
    beside = {f"buffer {i}": b[None] for i, b in enumerate(buffers)}
    return row_norms(named | beside, beside)[0]
