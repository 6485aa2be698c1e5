"""Samples in the precision of the students that read them."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

_T = TypeVar("_T")


def as_read(samples: _T, dtype: torch.dtype) -> _T:
    """Samples as students of that precision read them: in double precision, or as they are.

    Lightning converts what it can walk through, and a block of local steps is none of that.
    """
    if dtype != torch.float64:  # walking through a batch would cost more than a small step
        return samples
    read: _T = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, samples)
    return read
