"""Losses scaled against the underflow of fp16, whose gradients are true ones before anybody reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer


def unscale(scaler: GradScaler, optimizer: Optimizer) -> None:
    """Divide all gradients by the scale, before they are corrected and clipped, and learn which overflow."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    idle = all(p.grad is None for p in parameters)
    if idle:  # everybody sits out, and a scaler must have seen a gradient
        parameters[0].grad = scaler.scale(torch.zeros_like(parameters[0]))
    scaler.unscale_(optimizer)
    if idle:
        parameters[0].grad = None


@contextmanager
def unscaled(device: torch.device) -> Iterator[None]:
    """Where no scaler guards gradients they are computed in full precision instead of fp16."""
    kind = device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not half):
        yield
