"""How far local steps carry a peer: FedNova's norm1(a) by running the optimizer itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch


def unit_displacement(kind: Any, options: dict[str, Any], rates: Sequence[float], mu: float = 0.0) -> float:
    """Eta norm1(a): how far an optimizer goes against a gradient of one.

    On a linear loss a peer moves by exactly this number times the gradient, for every optimizer that is
    linear in the gradient (Wang et al. 2020, FedNova, section 3), so no table of formulas is needed.

    Args:
        kind: the optimizer.
        options: its hyper-parameters, without the learning rate.
        rates: the learning rate of each local step.
        mu: strength of a proximal term mu (y - x), FedProx's.
    """
    return _unit_displacement(kind, tuple(sorted(options.items())), tuple(rates), mu)


@lru_cache(maxsize=4096)
def _unit_displacement(
    kind: Any, options: tuple[tuple[str, Any], ...], rates: tuple[float, ...], mu: float
) -> float:
    y = torch.zeros(1, dtype=torch.float64)
    optimizer = kind([y], lr=1.0, **dict(options))
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        y.grad = 1.0 + mu * y
        optimizer.step()
    return -float(y)
