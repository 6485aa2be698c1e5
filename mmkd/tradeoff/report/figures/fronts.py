"""The figure of two studies: scores against bytes of both, each with its Pareto front."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmkd.palette import DISTINCT, INK, MUTED
from mmkd.tradeoff.pareto import Deal, front
from mmkd.tradeoff.report.appearance import MARKERS, Appearance
from mmkd.tradeoff.report.figures.scores import byte_axis
from mmkd.tradeoff.report.figures.style import blank, entry, with_legend
from mmkd.tradeoff.results import Results

Pair = tuple[Results, Results]
"""Two studies that are compared by the same metric."""
STYLES: tuple[Any, Any] = ("-", "--")
"""Lines of their fronts."""


def fronts(pair: Pair) -> Figure:
    """Means over seeds against bytes per peer: of the first study filled, of the second open.

    A method that both have has one colour, and a line from the first mean to the second.
    """
    figure, axes = blank(4.2)
    place = byte_axis(axes, [method for study in pair for method in study.compared])
    colours = _colours(pair)
    entries: list[Any] = []
    for study, filled, style in zip(pair, (True, False), STYLES, strict=True):
        deals = [Deal(method.mean("bytes"), method.mean("score")) for method in study.compared]
        for method, deal in zip(study.compared, deals, strict=True):
            own = Appearance(colours[method.name], MARKERS[method.family], filled)
            axes.plot(place(deal.cost), 100 * deal.gain, zorder=4, **own.marker_settings())
            if filled or method.name not in {other.name for other in pair[0].compared}:
                entries.append(entry(method, own))
        best = [deals[i] for i in front(deals)]
        if best:
            at = [*(place(deal.cost) for deal in best), axes.get_xlim()[1]]
            reached = [*(100 * deal.gain for deal in best), 100 * best[-1].gain]
            axes.step(at, reached, where="post", color=INK, linewidth=1, linestyle=style, zorder=3)
    for method in pair[0].compared:
        for other in pair[1].compared:
            if method.name == other.name:
                at = [place(one.mean("bytes")) for one in (method, other)]
                reached = [100 * one.mean("score") for one in (method, other)]
                axes.plot(at, reached, color=colours[method.name], linewidth=0.8, alpha=0.6)
    axes.set(xlabel="bytes per peer (log scale)", ylabel=f"mean {pair[0].metric.on('test')} (%)")
    entries += [
        Line2D([], [], color=INK, linewidth=1, linestyle=style, label=label)
        for style, label in zip(STYLES, ("Front of A (filled)", "Front of B (open)"), strict=True)
    ]
    return with_legend(figure, entries)


def _colours(pair: Pair) -> dict[str, str]:
    """A colour for each name of a method, whichever study has it."""
    following, chosen = cycle(DISTINCT), dict[str, str]()
    for method in (method for study in pair for method in study.compared):
        if method.name not in chosen:
            chosen[method.name] = MUTED if method.family == "none" else next(following)
    return chosen
