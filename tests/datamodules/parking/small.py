"""Frames and a car park that are small enough to be drawn by tests."""

from __future__ import annotations

from typing import Any

SIZE = {"height": 60, "width": 80}
DRAWN: dict[str, Any] = {"cameras": 2, "days": 4, "frames_per_day": 3, "seed": 3, **SIZE}
