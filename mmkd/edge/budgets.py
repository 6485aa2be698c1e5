"""Budgets of asking: shares of requests, bytes or time become thresholds, and what comes of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmkd.edge.policies import MaxProbability, Requests
from mmkd.errors import ConfigError
from mmkd.functional.offloading import budget_threshold

SPELT = {
    "%": ("requests", 0.01),
    "B": ("bytes", 1.0),
    "kB": ("bytes", 1e3),
    "ms": ("seconds", 1e-3),
    "s": ("seconds", 1.0),
}
"""Unit and factor of what stands behind the number of a budget."""
WAYS = ("one for all", "without temperatures", "one a device", "one price")
"""How thresholds are set: one for all devices; the same where nobody has a temperature; one for each device,
by which it keeps the budget itself; and by what answers cost it, so that all pay alike for what they want."""


class Budget(NamedTuple):
    """What asking may cost a request on average, of all requests, asked about or not."""

    said: str
    unit: str  # one of ``UNITS``
    amount: float  # a share, bytes or seconds


class Kept(NamedTuple):
    """What becomes of a budget on test samples, by thresholds of validation samples."""

    budget: Budget
    way: str  # one of ``WAYS``
    thresholds: list[float]  # of each device: greatest probability below which it asks
    spent: float  # of the budget's unit, mean over all requests
    asked: float  # share of requests
    accuracy: float  # of device and answers together
    away: float  # by how much what a device spends is away from the budget, mean over devices


def budget(text: str) -> Budget:
    """A budget as it is written: ``20%`` of requests, ``500B`` or ``1.5kB``, ``30ms`` or ``2s`` a request.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(%|B|kB|ms|s)?", text.strip())
    if match is None or (match[2] is None and float(match[1]) > 0):
        raise ConfigError(
            f"--budget {text}: give a share of requests, or bytes or time a request: 20%, 500B, 1.5kB, 30ms,"
            " 2s"
        )
    unit, factor = SPELT[match[2] or "%"]
    amount = float(match[1]) * factor
    if unit == "requests" and amount > 1:
        raise ConfigError(f"--budget {text}: devices can ask about 100% of their requests at most")
    return Budget(text, unit, amount)


def kept(
    given: Budget,
    calibrated: Mapping[str, Mapping[str, Requests]],
    plain: Mapping[str, Mapping[str, Requests]],
) -> list[Kept]:
    """What becomes of a budget, by each way of ``WAYS``.

    Args:
        given: the budget.
        calibrated: by split, ``val`` and ``test``, and by unit.
        plain: the same, of devices without temperatures.
    """
    val, test = (calibrated[split][given.unit] for split in ("val", "test"))
    bare = plain["val"][given.unit], plain["test"][given.unit]
    one = [_threshold(val, given.amount)] * (1 + max(val.device))
    own = [_threshold(_of(val, number), given.amount) for number in range(len(one))]
    # Divided by its cost, what a device wants is compared with one price: it asks above price * cost.
    price = budget_threshold(_wants(val) / val.cost, val.cost, given.amount)
    costs = [float(_of(val, number).cost.mean()) for number in range(len(one))]
    by_price = [price * cost for cost in costs]
    without = [_threshold(bare[0], given.amount)] * len(one)
    return [
        _kept(given, way, thresholds, about)
        for way, thresholds, about in zip(
            WAYS, (one, without, own, by_price), (test, bare[1], test, test), strict=True
        )
    ]


def _kept(given: Budget, way: str, thresholds: list[float], test: Requests) -> Kept:
    whose = torch.tensor(test.device)
    asks = _wants(test) > torch.tensor(thresholds, dtype=torch.float64)[whose]
    spent = torch.where(asks, test.cost, 0.0)
    own = [float(spent[whose == number].mean()) for number in range(len(thresholds))]
    return Kept(
        given,
        way,
        [min(1.0, max(0.0, 1 - threshold)) for threshold in thresholds],
        float(spent.mean()),
        float(asks.double().mean()),
        float(torch.where(asks, test.answered, test.right).double().mean()),
        sum(abs(mine - given.amount) for mine in own) / len(own),
    )


def _threshold(requests: Requests, amount: float) -> float:
    return budget_threshold(_wants(requests), requests.cost, amount)


def _wants(requests: Requests) -> Tensor:
    """What a device can know alone, and compare with a threshold."""
    return MaxProbability().wants(requests)


def _of(requests: Requests, number: int) -> Requests:
    """The requests of one device."""
    rows = (torch.tensor(requests.device) == number).nonzero()[:, 0]
    logits, right, answered, cost = (t[rows] for t in requests[:4])
    return Requests(logits, right, answered, cost, [number] * len(rows))
