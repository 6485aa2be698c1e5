"""What students of a run would be on a device, read from the file that ``mmkd.edge.OnDevice`` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

FILE = "device.json"
"""Its name in the folder of a run."""


class OnDevice(NamedTuple):
    """How one peer's student does as a file."""

    score: float  # on test samples
    bytes: float  # of the file
    median_ms: float  # of one sample, on one core
    p95_ms: float
    peak_mib: float  # of a process that runs it
    model_mib: float  # of which come with the model


def read_devices(path: Path) -> dict[str, dict[str, OnDevice]]:
    """By recipe, then by peer; nothing, if there is no such file.

    Raises:
        ValueError: a number is not finite, or peers have different recipes.
    """
    if not path.is_file():
        return {}
    saved: Mapping[str, Mapping[str, Mapping[str, float]]] = json.loads(path.read_text())
    found: dict[str, dict[str, OnDevice]] = {}
    for peer, recipes in saved.items():
        for recipe, row in recipes.items():
            own = OnDevice(*(float(row[field]) for field in OnDevice._fields))
            if not all(map(isfinite, own)):
                raise ValueError(f"a number of {peer}, {recipe}, is not finite")
            found.setdefault(recipe, {})[peer] = own
    if any(peers.keys() != saved.keys() for peers in found.values()):
        raise ValueError("peers have different recipes")
    return found


def mean(peers: Mapping[str, OnDevice]) -> OnDevice:
    """The means over peers."""
    return OnDevice(*map(fmean, zip(*peers.values(), strict=True)))
