"""Averages of slices against a loop over elements."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Size, Tensor

from mmkd.functional.mixing import mix
from mmkd.functional.slices import boxes, greatest, leading, padded, slice_average


@pytest.mark.parametrize("seed", range(5))
def test_every_element_is_the_mean_of_its_holders(seed: int) -> None:
    """Shapes of no order at all, and what lies behind them is not read."""
    stream = torch.Generator().manual_seed(seed)
    draw = torch.randint(1, 4, (4, 3), generator=stream).tolist()
    shapes = [{"t": Size(row), "s": Size([])} for row in draw]
    weights = torch.rand(4, generator=stream, dtype=torch.float64)
    x = torch.rand(1, 3, 3, 3, generator=stream, dtype=torch.float64)
    tree = torch.full((4, 3, 3, 3), float("nan"), dtype=torch.float64)
    for row, shape in zip(tree, draw, strict=True):
        leading(row, Size(shape)).copy_(torch.rand(shape, generator=stream, dtype=torch.float64))
    numbers = torch.rand(4, generator=stream, dtype=torch.float64)
    kept = x.clone()
    found = slice_average({"t": tree, "s": numbers}, shapes, weights, {"t": x, "s": numbers[:1] * 0})
    for e in product(range(3), repeat=3):
        held = [k for k, shape in enumerate(draw) if all(i < n for i, n in zip(e, shape, strict=True))]
        mean = sum(weights[k] * tree[k][e] for k in held) / weights[held].sum() if held else x[0][e]
        torch.testing.assert_close(found["t"][0][e], torch.as_tensor(mean), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found["s"], ((weights * numbers).sum() / weights.sum())[None])
    assert torch.equal(x, kept)


def test_equal_shapes_are_one_mix() -> None:
    tree = {"a": torch.randn(9, 5, 3), "b": torch.randn(9, 2)}
    p = torch.rand(9, dtype=torch.float64)
    shapes = [{"a": Size([5, 3]), "b": Size([2])}] * 9
    found = slice_average(tree, shapes, p, {n: leaf[:1] for n, leaf in tree.items()})
    assert all(torch.equal(found[n], leaf) for n, leaf in mix(tree, (p / p.sum())[None]).items())


def test_boxes_cover_the_space_once() -> None:
    shapes = [Size([2, 5]), Size([4, 1]), Size([4, 5]), Size([2, 1])]
    covered: Tensor = torch.zeros(4, 5)
    for box, held in boxes(shapes):
        covered[box] += 1
        for shape, holds in zip(shapes, held, strict=True):
            inside = torch.zeros(4, 5)
            leading(inside, shape).fill_(1)
            assert torch.equal(inside[box], torch.full_like(inside[box], float(holds)))
    assert torch.equal(covered, torch.ones(4, 5))


def test_padding_and_cutting_undo_one_another() -> None:
    rows = torch.randn(3, 2, 4)  # a stacked [2, 4]
    shape = greatest([Size([2, 4]), Size([5, 1])])
    assert shape == Size([5, 4])
    wide = padded(rows, shape)
    assert wide.shape == (3, 5, 4)
    assert float(wide[:, 2:].abs().sum()) == 0
    assert torch.equal(leading(wide, Size([2, 4])), rows)
    assert padded(rows, Size([2, 4])) is rows
