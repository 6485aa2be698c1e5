"""How a learning rate changes with time, as a factor."""

from __future__ import annotations

import math


def warmup_cosine(time: int, warmup: int, total: int, floor: float = 0.0) -> float:
    """A linear warm-up to 1, then half a cosine down to ``floor`` (Loshchilov and Hutter 2017, no restarts).

    Args:
        time: 0, 1, ...: a step or a round.
        warmup: how many there are of a warm-up, during which the factor is (time + 1) / (warmup + 1).
        total: how many there are in all; from then on the factor is ``floor``.
        floor: the last factor.
    """
    if time < warmup:
        return (time + 1) / (warmup + 1)
    part = min(1.0, (time - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * part)) / 2
