"""Doubt of a detector: how many errors it expects to have made in a frame."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def expected_errors(scores: Float[Tensor, "*frames slots"]) -> Float[Tensor, "*frames"]:
    """How many detections of a frame are decided wrongly, if scores are chances: sum_i min(s_i, 1 - s_i).

    A detection of at least 1/2 counts and is wrong with chance 1 - s; one below it does not count, and is an
    object that is missed with chance s. Objects without any detection are not seen in it.

    Args:
        scores: from 0 to 1; 0 where a slot holds no detection.
    """
    return scores.minimum(1 - scores).sum(-1)
