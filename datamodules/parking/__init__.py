"""Drawn car parks under cameras, in the folder format in which the data set CNR-EXT was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datamodules.parking.car_parks import car_park
from datamodules.parking.cnr_format import CAR, Tree
from datamodules.parking.rendering import render, render_general

if TYPE_CHECKING:
    from datamodules.parking.general_scenes import GeneralScenes

__all__ = ["CAR", "GeneralScenes", "Tree", "car_park", "render", "render_general"]


def __getattr__(name: str) -> Any:
    """Import ``GeneralScenes`` at its first use.

    It needs Lightning, whose import takes longer than most drawings do, and every process that draws imports
    this package.
    """
    if name == "GeneralScenes":
        from datamodules.parking.general_scenes import GeneralScenes

        return GeneralScenes
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
