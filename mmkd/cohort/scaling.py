"""Scaling of fp16 losses against underflow: gradients are divided by the scale before anybody reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer


def unscale(scaler: GradScaler, optimizer: Optimizer) -> None:
    """Divide all gradients by the scale, before they are corrected and clipped; overflows are noted."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    idle = all(p.grad is None for p in parameters)
    if idle:  # all peers sit out, and a scaler raises where it has seen no gradient
        parameters[0].grad = scaler.scale(torch.zeros_like(parameters[0]))
    scaler.unscale_(optimizer)
    if idle:
        parameters[0].grad = None


@contextmanager
def unscaled(device: torch.device) -> Iterator[None]:
    """Compute in full precision in place of fp16, for gradients that no scaler protects."""
    kind = device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not half):
        yield
