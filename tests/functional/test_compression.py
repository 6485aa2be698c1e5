"""Compression row by row: what is kept, that rounding has no bias, and what goes on the wire."""

from __future__ import annotations

import pytest
import torch

from mmkd.encoding import Quantise, TopK
from mmkd.functional.compression import from_quantised, from_top_k, quantise, top_k
from mmkd.types import ConfigError


def test_top_k_keeps_the_largest_in_magnitude() -> None:
    x = torch.tensor([[1.0, -5, 3, 0], [0.1, 0.2, -0.3, 0.4]])
    values, places = top_k(x, 2)
    assert values.tolist() == [[-5, 3], [pytest.approx(-0.3), pytest.approx(0.4)]]
    assert places.tolist() == [[1, 2], [2, 3]]
    assert places.dtype == torch.int32
    assert from_top_k(values, places, 4).tolist()[0] == [0, -5, 3, 0]


@pytest.mark.parametrize(("bits", "size"), [(8, 7), (4, 7), (4, 8)])
def test_quantisation_is_within_a_level_exact_at_levels_and_unbiased(bits: int, size: int) -> None:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(3, size, generator=stream, dtype=torch.float64)
    half = 2 ** (bits - 1) - 1
    level = x.abs().amax(1, keepdim=True) / half
    draws = 4000  # of three rows
    chance = torch.rand(3 * draws, size, generator=stream, dtype=torch.float64)
    codes, scale = quantise(x.repeat(draws, 1), bits, chance)
    assert codes.shape == (3 * draws, size if bits == 8 else (size + 1) // 2)
    back = from_quantised(codes, scale, bits, size).view(draws, 3, size)
    assert bool(((back - x).abs() <= level * (1 + 1e-9)).all())
    # A rounding error is at most a level, so its mean has a standard deviation of half a level / sqrt(n).
    assert bool(((back.mean(0) - x).abs() <= 5 * 0.5 * level / draws**0.5).all())
    grid = torch.arange(-half, half + 1, dtype=torch.float64)[None]
    codes, scale = quantise(grid, bits, torch.full_like(grid, 0.5))
    assert torch.equal(from_quantised(codes, scale, bits, grid.shape[1]), grid)


def test_zeros_stay_zeros() -> None:
    codes, scale = quantise(torch.zeros(2, 5), 4, torch.rand(2, 5))
    assert torch.equal(from_quantised(codes, scale, 4, 5), torch.zeros(2, 5))


@pytest.mark.parametrize(
    ("compression", "nbytes"),
    [
        # Leaves of 12 and 5 float32 entries and a scalar: top 25 % is 3, 1 and 1 pairs of 4 + 4 bytes.
        (TopK(0.25), 5 * 8),
        (Quantise(8), 12 + 5 + 1 + 3 * 4),
        (Quantise(4), 6 + 3 + 1 + 3 * 4),
    ],
    ids=["top", "8", "4"],
)
def test_bytes_on_the_wire_and_the_way_back(compression, nbytes: int) -> None:
    tree = {"a": torch.randn(2, 3, 4), "b": torch.randn(2, 5), "c": torch.randn(2)}
    encoded = compression.encode(tree, [("a", 0), ("b", 0)])
    assert sum(t[0].numel() * t.element_size() for t in encoded.values()) == nbytes
    back = compression.decode(encoded, tree)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in tree.items()}
    # A row is encoded by itself, with random numbers of its own.
    alone = compression.encode({n: t[1:] for n, t in tree.items()}, [("b", 0)])
    assert all(torch.equal(alone[n][0], t[1]) for n, t in encoded.items())


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"in \(0, 1\]"):
        TopK(0.0)
    with pytest.raises(ConfigError, match="4 or 8 bits"):
        Quantise(3)
