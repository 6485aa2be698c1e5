"""A learning-rate schedule of a student that a configuration can name whole."""

from __future__ import annotations

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mmkd.bounds import Count, Share, Whole, bounded
from mmkd.functional.rates import warmup_cosine


@bounded
class WarmupCosine(LambdaLR):
    """A linear warm-up, then half a cosine, in local steps of the peer.

    torch's own are chained from several schedules on one optimizer, which a configuration cannot write.

    Args:
        optimizer: whose rates are multiplied.
        steps: local steps in all.
        warmup: local steps of the warm-up.
        floor: last factor of the rates.
    """

    def __init__(self, optimizer: Optimizer, steps: Count, warmup: Whole = 0, floor: Share = 0.0) -> None:
        super().__init__(optimizer, partial(warmup_cosine, warmup=warmup, total=steps, floor=floor))
