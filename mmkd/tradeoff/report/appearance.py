"""The colour and marker of each method, the same in all figures and tables."""

from __future__ import annotations

from itertools import cycle, product
from typing import Any, NamedTuple

from mmkd.palette import DISTINCT, MUTED, PAPER
from mmkd.tradeoff.report.page import Cell, Swatch
from mmkd.tradeoff.results import Method, Results

MARKERS = {"weights": "s", "knowledge": "o", "both": "D", "none": "^"}
"""Marker of a method by its family, as Matplotlib names it."""


class Appearance(NamedTuple):
    """The colour and marker with which a method is drawn."""

    colour: str
    marker: str
    filled: bool

    def marker_settings(self, size: float = 9, **more: Any) -> dict[str, Any]:
        """Arguments of Matplotlib's ``plot`` for this marker without a line."""
        face = self.colour if self.filled else PAPER
        return {
            "marker": self.marker,
            "markersize": size,
            "markerfacecolor": face,
            "markeredgecolor": self.colour,
            "markeredgewidth": 1.6,
            "linestyle": "none",
        } | more


def appearances(results: Results) -> dict[str, Appearance]:
    """The appearance of each method of a study: no two methods of a family have the same one."""
    chosen: dict[str, Appearance] = {}
    pairs = cycle(product((True, False), DISTINCT))
    for name, method in results.study["methods"].items():
        family = method["family"]
        if family in ("none", "ceiling"):
            chosen[name] = Appearance(MUTED, MARKERS.get(family, "_"), filled=True)
            continue
        for _ in range(2 * len(DISTINCT)):
            filled, colour = next(pairs)
            chosen[name] = Appearance(colour, MARKERS[family], filled)
            if list(chosen.values()).count(chosen[name]) == 1:
                break
    return chosen


def swatch(method: Method, appearance: Appearance) -> Cell:
    """The method's name beside its colour, for a table."""
    if method.family == "ceiling":
        return method.label
    return Swatch(method.label, appearance.colour, appearance.filled)
