"""Figures of scores: against bytes, by round, and private against shared accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import log10
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from mmkd.palette import INK, LINE, MUTED, PAPER
from mmkd.tradeoff.pareto import Deal, front, spread
from mmkd.tradeoff.report.appearance import appearances
from mmkd.tradeoff.report.figures.style import blank, entry, short, tick, with_legend
from mmkd.tradeoff.results import Method, Point, Results


def headline(results: Results) -> Figure:
    """Test scores against bytes per peer: means, seeds, Pareto front, ceilings."""
    figure, axes = blank(4.2)
    appearance, entries = appearances(results), []
    place = byte_axis(axes, results.compared)
    deals = []
    for method in results.compared:
        own = appearance[method.name]
        for run in method.runs:
            axes.plot(
                place(run.bytes), 100 * run.score, **own.marker_settings(4.5, alpha=0.4, markeredgewidth=0.8)
            )
        deals.append(Deal(method.mean("bytes"), method.mean("score")))
        axes.plot(place(deals[-1].cost), 100 * deals[-1].gain, zorder=4, **own.marker_settings())
        entries.append(entry(method, own))
    best = [deals[i] for i in front(deals)]
    right = axes.get_xlim()[1]
    ends = [100 * run.score for method in results.methods for run in method.runs]
    room = max(1.0, 0.12 * (max(ends) - min(ends)))
    axes.set_ylim(min(ends) - room, max(ends) + room)
    axes.step(
        [*(place(deal.cost) for deal in best), right],
        [*(100 * deal.gain for deal in best), 100 * best[-1].gain] if best else [0],
        where="post",
        color=INK,
        linewidth=1,
        zorder=3,
    )
    entries += _ceilings(axes, results)
    axes.set(xlabel="bytes per peer (log scale)", ylabel=f"mean {results.metric.on('test')} (%)")
    entries.append(Line2D([], [], color=INK, linewidth=1, label="Pareto front"))
    return with_legend(figure, entries)


def spending(results: Results) -> Figure:
    """Validation scores against the bytes spent so far, while methods train."""
    figure, axes = blank(4.0)
    appearance, entries = appearances(results), []
    place = byte_axis(axes, results.compared)
    for method in results.compared:
        own, curve = appearance[method.name], list(_mean_curve(method))
        if not curve:
            continue
        line: Any = own.marker_settings(5, color=own.colour, linewidth=1.6, linestyle="-")
        reached = [100 * point.score for point in curve]
        axes.plot([place(point.bytes) for point in curve], reached, markevery=[-1], **line)
        entries.append(Line2D([], [], label=short(method.label, 60), **line))
    axes.set(xlabel="bytes per peer so far (log scale)", ylabel=f"mean {results.metric.on('validation')} (%)")
    return with_legend(figure, entries)


def rounds(results: Results) -> Figure:
    """Validation scores by round: mean and range over seeds."""
    figure, axes = blank(4.0)
    appearance, entries = appearances(results), []
    for method in results.methods:
        own = appearance[method.name]
        style: Any = "--" if method.family == "ceiling" else "-" if own.filled else (0, (4, 1))
        curves = list(_by_round(method).items())
        if not curves:
            continue
        at = [number for number, _ in curves]
        spreads = [spread(point.score for point in found) for _, found in curves]
        line: Any = {"color": own.colour, "linestyle": style, "linewidth": 1.6}
        if method.family != "ceiling":
            line |= own.marker_settings(5) | line
        axes.plot(at, [100 * s.mean for s in spreads], markevery=[-1], **line)
        lows, highs = [100 * s.low for s in spreads], [100 * s.high for s in spreads]
        axes.fill_between(at, lows, highs, color=own.colour, alpha=0.14, linewidth=0)
        entries.append(Line2D([], [], label=short(method.label, 60), **line))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="round", ylabel=f"mean {results.metric.on('validation')} (%)")
    return with_legend(figure, entries)


def private_and_shared(results: Results) -> Figure:
    """Private accuracy (the peer's own labels) against shared accuracy (all labels alike)."""
    figure, axes = blank(4.0)
    appearance = appearances(results)
    for method in results.compared:
        own = appearance[method.name]
        for run in method.runs:
            faint = own.marker_settings(4.5, alpha=0.4, markeredgewidth=0.8)
            axes.plot(100 * run.score, 100 * run.tested("private_accuracy"), **faint)
        axes.plot(
            100 * method.mean("score"),
            100 * method.tested("private_accuracy"),
            zorder=4,
            **own.marker_settings(),
        )
    axes.set(xlabel="mean shared test accuracy (%)", ylabel="mean private test accuracy (%)")
    return with_legend(figure, [entry(method, appearance[method.name]) for method in results.compared])


def _ceilings(axes: Axes, results: Results) -> list[Line2D]:
    """A line for each ceiling, with its name on the line or, where names would overlap, in the legend."""
    ceilings = sorted(results.ceilings, key=lambda method: method.mean("score"), reverse=True)
    heights = [100 * method.mean("score") for method in ceilings]
    low, high = axes.get_ylim()
    crowded = any(a - b < 0.06 * (high - low) for a, b in pairwise(heights))
    entries = []
    for i, (method, height) in enumerate(zip(ceilings, heights, strict=True)):
        style: Any = {"color": MUTED, "linewidth": 1, "linestyle": (0, (6, 2) + i * (1, 2))}
        axes.axhline(height, **style)
        if crowded:
            entries.append(Line2D([], [], label=f"{height:.1f} %: {short(method.label, 60)}", **style))
        else:
            axes.annotate(
                method.label, (0, height), (4, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", color=MUTED, fontsize=9,
            )  # fmt: skip
    return entries


def _by_round(method: Method) -> dict[int, list[Point]]:
    """The last evaluation of each seed in a round, where every seed has one."""
    found: dict[int, list[Point]] = defaultdict(list)
    for run in method.runs:
        for number, point in {point.round: point for point in run.curve}.items():
            found[number].append(point)
    return {number: points for number, points in sorted(found.items()) if len(points) == len(method.runs)}


def _mean_curve(method: Method) -> Iterator[Point]:
    for number, points in _by_round(method).items():
        yield Point(number, *(fmean(column) for column in list(zip(*points, strict=True))[1:]))


def byte_axis(axes: Axes, methods: Sequence[Method]) -> Callable[[float], float]:
    """A log axis of bytes; if a method sends nothing, with 0 B left of a break in the axis.

    Returns:
        The position on the axis of a number of bytes.
    """
    costs = [run.bytes for method in methods for run in method.runs]
    positive = [c for c in costs if c > 0]
    positive += [p.bytes for method in methods for p in _mean_curve(method) if p.bytes > 0]
    low, high = log10(min(positive, default=1e3)), log10(max(positive, default=1e6))
    span = max(high - low, 1.0)
    free = 0 in costs
    zero = 10 ** (low - 0.17 * span)
    left, right = low - (0.24 if free else 0.05) * span, high + 0.06 * span
    axes.set_xscale("log")
    axes.set_xlim(10**left, 10**right)
    steps = (1,) if span > 2 else (1, 3) if span > 1.2 else (1, 2, 5)
    ticks = [step * 10**e for e in range(int(low) - 1, int(high) + 2) for step in steps]
    ticks = [at for at in ticks if low - 0.02 * span <= log10(at) <= right]
    axes.xaxis.set_major_locator(FixedLocator([*([zero] if free else []), *ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0 B" if value <= zero else tick(value)))
    if free:
        gap = 10 ** (low - 0.09 * span)
        axes.axvspan(10**left, gap, color=LINE, alpha=0.35, linewidth=0)
        foot = axes.get_xaxis_transform()
        axes.plot(gap, 0, marker="s", markersize=7, color=PAPER, transform=foot, clip_on=False, zorder=5)
        axes.text(gap, 0, "//", transform=foot, ha="center", va="center", color=MUTED, zorder=6)
    return lambda nbytes: nbytes if nbytes > 0 else zero
