"""The style of all figures: fonts, lines, axes and legends, and files that are the same every time."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import Any, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmkd.palette import INK, LINE, MUTED, PAPER
from mmkd.tradeoff.report.appearance import Appearance
from mmkd.tradeoff.report.page import inline
from mmkd.tradeoff.report.writing import si
from mmkd.tradeoff.results import Method

_Drawn = TypeVar("_Drawn")
WIDTH = 5.6  # inches: narrow, so that letters stay readable on a phone
"""Width of a figure in inches."""
RC: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "patch.linewidth": 0.8,
    "svg.hashsalt": "mmkd",
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
"""Settings of Matplotlib that all figures share."""


def save(draw: Callable[[_Drawn], Figure], results: _Drawn, folder: Path) -> str:
    """Draw, write ``<name of draw>.png`` (the same bytes every time), and return inline SVG."""
    text, name = io.StringIO(), draw.__name__
    with matplotlib.rc_context(RC):
        figure = draw(results)
        figure.savefig(folder / f"{name}.png", dpi=180, facecolor=PAPER, metadata={"Software": None})
        figure.savefig(text, format="svg", transparent=True)
    return inline(text.getvalue(), name)


def blank(height: float) -> tuple[Figure, Axes]:
    """A figure ``height`` inches high with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def with_legend(figure: Figure, entries: list[Any]) -> Figure:
    """Add a legend below the axes, and height for it."""
    columns = 3 if all(len(handle.get_label()) <= 22 for handle in entries) else 2
    for handle in entries:
        handle.set_label(fill(handle.get_label(), 38))
    rows = ceil(len(entries) / columns)
    lines = [1 + handle.get_label().count("\n") for handle in entries]
    most = max(sum(lines[i : i + rows]) for i in range(0, len(lines), rows))
    figure.set_figheight(figure.get_figheight() + 0.2 * most)
    figure.legend(handles=entries, loc="outside lower center", ncol=columns, handlelength=1.6)
    return figure


def entry(method: Method, appearance: Appearance) -> Line2D:
    """A method's marker and name, for a legend."""
    return Line2D([], [], label=short(method.label, 60), **appearance.marker_settings(7.5))


def short(label: str, length: int) -> str:
    """A label, cut where it is longer than ``length`` letters."""
    return label if len(label) <= length else label[: length - 1] + "\u2026"


def tick(nbytes: float) -> str:
    """A number of bytes as a label of an axis, without decimals that are zero."""
    return si(nbytes, "B").replace(".00 ", " ").replace(".0 ", " ")
