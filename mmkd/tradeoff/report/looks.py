"""How a method looks, in all figures and tables alike."""

from __future__ import annotations

from itertools import cycle, product
from typing import Any, NamedTuple

from mmkd.palette import DISTINCT, MUTED, PAPER
from mmkd.tradeoff.report.page import Cell, Swatch
from mmkd.tradeoff.results import Method, Results

MARKERS = {"weights": "s", "knowledge": "o", "both": "D", "none": "^"}
"""Shapes of the points of methods, in their order."""


class Look(NamedTuple):
    """How a method is drawn."""

    colour: str
    marker: str
    filled: bool

    def marks(self, size: float = 9, **more: Any) -> dict[str, Any]:
        """Keywords of ``plot`` for a marker without a line."""
        face = self.colour if self.filled else PAPER
        return {
            "marker": self.marker,
            "markersize": size,
            "markerfacecolor": face,
            "markeredgecolor": self.colour,
            "markeredgewidth": 1.6,
            "linestyle": "none",
        } | more


def looks(results: Results) -> dict[str, Look]:
    """Colours in the study's order, filled and hollow by turns, so that no two of a family look alike."""
    found: dict[str, Look] = {}
    pairs = cycle(product((True, False), DISTINCT))
    for name, method in results.study["methods"].items():
        family = method["family"]
        if family in ("none", "ceiling"):
            found[name] = Look(MUTED, MARKERS.get(family, "_"), filled=True)
            continue
        for _ in range(2 * len(DISTINCT)):
            filled, colour = next(pairs)
            found[name] = Look(colour, MARKERS[family], filled)
            if list(found.values()).count(found[name]) == 1:
                break
    return found


def swatch(method: Method, look: Look) -> Cell:
    """The method's name beside its colour, for a table."""
    if method.family == "ceiling":
        return method.label
    return Swatch(method.label, look.colour, look.filled)
