"""Thin factors: nearest of their rank, whole at full rank, and ranks by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmkd.functional.low_rank import factors, rank_of


def test_the_error_is_that_of_the_singular_values_left_out() -> None:
    matrix = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    for rank in range(1, 6):
        out, into = factors(matrix, rank)
        assert (out.shape, into.shape) == ((7, rank), (rank, 5))
        error = float((matrix - out @ into).norm())
        assert error == pytest.approx(float(np.sqrt((values[rank:] ** 2).sum())), abs=1e-5)
        torch.testing.assert_close(out.norm(dim=0), into.norm(dim=1))  # both learn at one pace


def test_ranks_by_hand() -> None:
    """Squares 9, 4 and 1 of 14."""
    values = torch.tensor([3.0, 2.0, 1.0])
    shares = [(0.0, 1), (9 / 14 - 1e-6, 1), (9 / 14 + 1e-6, 2), (13 / 14 + 1e-6, 3), (1.0, 3)]
    assert [rank_of(values, share) for share, _ in shares] == [rank for _, rank in shares]
    assert rank_of(torch.tensor([3.0, 0.0]), 1.0) == 1  # what is not there needs no rank
    assert rank_of(torch.zeros(2), 1.0) == 1
