"""What an export wrote, and how it was found to be."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Exported(NamedTuple):
    """What was written, and how it was found to be."""

    folder: Path
    parity: dict[str, float]  # greatest difference of an output, by format
    agreement: dict[str, float]  # share of samples that are named as the student names them, by format
    size: dict[str, int]  # bytes of each file, by format
    measured: dict[str, dict[str, float]]  # on one core, by format: median_ms, p95_ms, peak_mib, model_mib
