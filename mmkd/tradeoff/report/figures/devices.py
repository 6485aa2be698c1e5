"""The figure of students on a device: scores against each cost, with the front of each."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from mmkd.palette import INK
from mmkd.tradeoff.report.appearance import Appearance, appearances
from mmkd.tradeoff.report.devices import AXES, Artefact, Axis, artefacts, best, costs
from mmkd.tradeoff.report.figures.scores import byte_axis
from mmkd.tradeoff.report.figures.style import WIDTH, short, with_legend
from mmkd.tradeoff.report.writing import si
from mmkd.tradeoff.results import Results

NEAR = 4.0
"""The greatest cost in units of the least, up to which an axis is linear."""
SHAPES = ("o", "s", "D", "^", "v", "P", "X", "*")
"""Markers of recipes."""


def devices(results: Results) -> Figure:
    """Scores against bytes sent, size, latency and memory: methods are colours, recipes markers."""
    found, looks = artefacts(results), appearances(results)
    methods = {one.method.name: one.method.label for one in found}
    recipes = dict.fromkeys(one.recipe for one in found)
    shapes = dict(zip(recipes, cycle(SHAPES), strict=False))
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    for axes, axis in zip(figure.subplots(2, 2, sharey=True).flat, AXES, strict=True):
        _panel(axes, axis, found, looks, shapes)
    figure.supylabel("test score of the file (%)", fontsize=10)
    plain: Any = {"linestyle": "none", "markersize": 7}
    entries = [
        *(
            Line2D([], [], label=short(label, 60), **looks[name].marker_settings(7, marker="o"))
            for name, label in methods.items()
        ),
        *(Line2D([], [], marker=s, color=INK, label=short(r, 60), **plain) for r, s in shapes.items()),
        Line2D([], [], color=INK, linewidth=1, label="Pareto front"),
    ]
    return with_legend(figure, entries)


def _panel(
    axes: Axes, axis: Axis, found: list[Artefact], looks: dict[str, Appearance], shapes: dict[str, str]
) -> None:
    at = [costs(one)[axis.name] for one in found]
    if axis.name == "sent":
        place_of = byte_axis(axes, list({id(one.method): one.method for one in found}.values()))
        at = [place_of(cost) for cost in at]
    else:
        _scale(axes, at, axis.unit)
    for one, cost in zip(found, at, strict=True):
        low, high = one.score.interval()
        look = looks[one.method.name]
        axes.plot([cost, cost], [100 * low, 100 * high], color=look.colour, linewidth=0.8, alpha=0.5)
        settings = look.marker_settings(6, marker=shapes[one.recipe], alpha=0.85, zorder=4)
        axes.plot(cost, 100 * one.score.mean, **settings)
    places = best(found, axis)
    axes.step(
        [*(at[place] for place in places), max(at)],
        [100 * found[place].score.mean for place in [*places, places[-1]]],
        where="post",
        color=INK,
        linewidth=1,
        zorder=3,
    )
    axes.set_xlabel(axis.label)


def _scale(axes: Axes, at: list[float], unit: str) -> None:
    """A logarithmic axis, or a linear one where costs are near one another, with few marks."""
    wide = max(at) / min(at)
    if wide > NEAR:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide > 20 else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, unit)))


def _tick(value: float, unit: str) -> str:
    if unit == "s":
        return f"{1e3 * value:g} ms"
    return si(value, unit).replace(".00 ", " ").replace(".0 ", " ")
