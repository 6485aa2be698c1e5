"""Losses of tags and of values of which some may be unknown.

An unknown entry adds nothing, and a known one counts the same whatever is unknown beside it: sums are divided
by the number of all entries. So losses are means over samples however a batch is cut.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def known_tags(y: Shaped[Tensor, "*batch tags"]) -> Bool[Tensor, "*batch tags"]:
    """Entries that are neither below 0, as ``NO_LABEL`` is, nor NaN."""
    return y >= 0


def tagging(logits: Float[Tensor, "batch tags"], y: Shaped[Tensor, "batch tags"]) -> Float[Tensor, ""]:
    """Mean of -y log p - (1 - y) log(1 - p) over all entries, where p is the logistic function of a logit.

    Args:
        logits: log-odds of each tag.
        y: 1 where a tag fits and 0 where it does not, or shares between; below 0 or NaN where unknown.
    """
    known = known_tags(y)
    share = y.to(logits.dtype).masked_fill(~known, 0.0)
    wrong = F.binary_cross_entropy_with_logits(logits, share, reduction="none")
    return wrong.masked_fill(~known, 0.0).mean()


def squared_error(
    values: Float[Tensor, "batch values"], y: Float[Tensor, "batch values"]
) -> Float[Tensor, ""]:
    """Mean of (value - y)^2 over all entries.

    Args:
        values: predicted.
        y: true; NaN where unknown.
    """
    return (values - y).masked_fill(y.isnan(), 0.0).square().mean()
