"""The figure of students on a device: scores against each cost, with the front of each."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mmkd.palette import DISTINCT, INK, MUTED
from mmkd.tradeoff.report.devices import AXES, Artefact, Axis, best, costs
from mmkd.tradeoff.report.figures.style import WIDTH, short, with_legend
from mmkd.tradeoff.report.writing import si

SHAPES = ("o", "s", "D", "^", "v", "P", "X", "*")
"""Markers of recipes."""


def devices(found: list[Artefact]) -> Figure:
    """Scores against bytes sent, size, latency and memory: methods have colours, and recipes markers."""
    methods = dict.fromkeys(one.method.label for one in found)
    recipes = dict.fromkeys(one.recipe for one in found)
    colours = dict(zip(methods, cycle(DISTINCT), strict=False))
    shapes = dict(zip(recipes, cycle(SHAPES), strict=False))
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    for axes, axis in zip(figure.subplots(2, 2, sharey=True).flat, AXES, strict=True):
        _panel(axes, axis, found, colours, shapes)
    figure.supylabel("test score of the file (%)", fontsize=10)
    plain: Any = {"linestyle": "none", "markersize": 7}
    entries = [
        *(Line2D([], [], marker="o", color=c, label=short(m, 60), **plain) for m, c in colours.items()),
        *(Line2D([], [], marker=s, color=MUTED, label=short(r, 60), **plain) for r, s in shapes.items()),
        Line2D([], [], color=INK, linewidth=1, label="Pareto front"),
    ]
    return with_legend(figure, entries)


def _panel(
    axes: Axes, axis: Axis, found: list[Artefact], colours: dict[str, str], shapes: dict[str, str]
) -> None:
    least = min((c for one in found if (c := costs(one)[axis.name]) > 0), default=1.0)
    # What costs nothing has no place on a logarithmic axis: it stands left of all others.
    at = [costs(one)[axis.name] or least / 3 for one in found]
    for one, cost in zip(found, at, strict=True):
        low, high = one.score.interval()
        colour = colours[one.method.label]
        axes.plot([cost, cost], [100 * low, 100 * high], color=colour, linewidth=0.8, alpha=0.5)
        axes.plot(cost, 100 * one.score.mean, marker=shapes[one.recipe], color=colour, alpha=0.85, zorder=4)
    places = best(found, axis)
    axes.set_xscale("log")
    axes.step(
        [*(at[place] for place in places), max(at)],
        [100 * found[place].score.mean for place in [*places, places[-1]]],
        where="post",
        color=INK,
        linewidth=1,
        zorder=3,
    )
    axes.set_xlabel(axis.label)
    wide = max(at) > 20 * min(at)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "0 B" if value < least / 2 else _tick(value, axis.unit))
    )


def _tick(value: float, unit: str) -> str:
    if unit == "s":
        return f"{1e3 * value:g} ms"
    return si(value, unit).replace(".00 ", " ").replace(".0 ", " ")
