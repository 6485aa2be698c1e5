"""Low rank: matrices as products of two thin ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def factors(
    matrix: Float[Tensor, "outputs inputs"], rank: int
) -> tuple[Float[Tensor, "outputs rank"], Float[Tensor, "rank inputs"]]:
    """The two factors of that rank whose product is nearest to a matrix (Eckart & Young 1936).

    The squared distance is the sum of the squares of the singular values that are left out. Each factor
    takes the square root of those that are kept, so that both learn at one pace.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def rank_of(values: Float[Tensor, " values"], energy: float) -> int:
    """The least rank, at least 1, that keeps a share of the sum of squared singular values.

    Args:
        values: in descending order.
        energy: share from 0 to 1; 1 is all that are not zero.
    """
    squares = values.double().square()
    left_out = squares.flip(0).cumsum(0).flip(0)  # from the smallest on, or the small ones would be lost
    allowed = (1 - energy) * float(squares.sum())
    return max(1, int((left_out > allowed).sum()))
