"""Averages of tensors of different sizes, where a smaller one is the leading slice of a greater one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmkd.functional.mixing import mix
from mmkd.functional.trees import Tree

Shapes: TypeAlias = Mapping[str, torch.Size]
"""Shapes of one student's tensors, by name."""
Box: TypeAlias = tuple[Any, ...]
"""An index: a slice of each trailing axis, and all of a leading one."""


def leading(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The leading slice of a tensor, or of each row of a stacked one; a view."""
    box: Box = (..., *map(slice, shape))
    return tensor[box]


def padded(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A tensor, or each row of a stacked one, with zeros behind it up to ``shape``, if it is smaller."""
    lacking = [full - size for full, size in zip(reversed(shape), reversed(tensor.shape), strict=False)]
    return F.pad(tensor, [n for lack in lacking for n in (0, lack)]) if any(lacking) else tensor


def greatest(shapes: Iterable[torch.Size]) -> torch.Size:
    """The greatest size along each axis."""
    return torch.Size(map(max, zip(*shapes, strict=True)))


def boxes(shapes: Sequence[torch.Size]) -> Iterator[tuple[Box, tuple[bool, ...]]]:
    """The boxes into which the borders of leading slices cut the space, and which slices hold each."""
    borders = [sorted({0, *sizes}) for sizes in zip(*shapes, strict=True)]
    for sides in product(*map(pairwise, borders)):
        held = tuple(
            all(size >= end for size, (_, end) in zip(shape, sides, strict=True)) for shape in shapes
        )
        yield (..., *(slice(*side) for side in sides)), held


@torch.no_grad()
def slice_average(
    tree: Mapping[str, Float[Tensor, "peers ..."]],
    shapes: Sequence[Shapes],
    weights: Float[Tensor, " peers"],
    x: Mapping[str, Float[Tensor, "1 ..."]],
) -> Tree:
    """Each element becomes the weighted mean over the peers that hold it, and stays if their weights are 0.

    Elements with the same holders make a few boxes, so there are no masks, and where all hold all this is
    one ``mix``, bit for bit.

    Args:
        tree: rows ``[peers, ...]``; what lies behind a peer's own shapes is not read.
        shapes: of each peer's own tensors.
        weights: of the peers, renormalised over the holders of each element.
        x: values of elements that nobody of positive weight holds, ``[1, ...]``, of the greatest shapes.

    Returns:
        leaves of ``tree``, shaped as those of ``x``.
    """
    averaged = {name: x[name].clone() for name in tree}
    parts: dict[tuple[bool, ...], list[tuple[str, Box]]] = {}
    for name in tree:
        for box, held in boxes([shape[name] for shape in shapes]):
            parts.setdefault(held, []).append((name, box))
    for held, places in parts.items():
        share = weights * torch.tensor(held)
        if share.sum() > 0:
            inside = {str(i): tree[name][box] for i, (name, box) in enumerate(places)}
            mixed = mix(inside, (share / share.sum())[None])
            for i, (name, box) in enumerate(places):
                averaged[name][box] = mixed[str(i)]
    return averaged
