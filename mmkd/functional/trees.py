"""Arithmetic on trees of tensors with a leading peer axis; a leading axis of one stands for all peers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

Tree: TypeAlias = dict[str, Tensor]
"""Tensors by name, such as the parameters of a student."""


def add(a: Mapping[str, Tensor], b: Mapping[str, Tensor], scale: float = 1.0) -> Tree:
    """``a + scale b``, for the leaves of ``a``."""
    return {name: torch.add(leaf, b[name], alpha=scale) for name, leaf in a.items()}


def subtract(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tree:
    """``a - b``, for the leaves of ``a``."""
    return {name: leaf - b[name] for name, leaf in a.items()}


def add_(a: Mapping[str, Tensor], b: Mapping[str, Tensor], scale: float = 1.0) -> None:
    """``a += scale b``, for the leaves of ``a``."""
    for name, leaf in a.items():
        leaf.add_(b[name], alpha=scale)


def scale_rows_(tree: Mapping[str, Tensor], factors: Float[Tensor, " peers"]) -> None:
    """Every row times its factor, in place."""
    for leaf in tree.values():
        leaf.mul_(factors.to(leaf).view(-1, *[1] * (leaf.dim() - 1)))


def zeros(like: Mapping[str, Tensor], rows: int) -> Tree:
    """Zeros with ``rows`` rows, shaped as the rows of ``like``."""
    return {name: leaf.new_zeros(rows, *leaf.shape[1:]) for name, leaf in like.items()}


def pick(tree: Mapping[str, Tensor], rows: Int[Tensor, " rows"]) -> Tree:
    """The rows at the given positions, which ascend; the tree itself if these are all rows."""
    return {
        name: leaf if len(rows) == len(leaf) else leaf[rows.to(leaf.device)] for name, leaf in tree.items()
    }


def put(tree: Mapping[str, Tensor], rows: Int[Tensor, " rows"], values: Mapping[str, Tensor]) -> None:
    """Overwrite the rows in place."""
    for name, value in values.items():
        if len(rows) == len(tree[name]):
            tree[name].copy_(value)
        else:
            tree[name][rows.to(value.device)] = value
