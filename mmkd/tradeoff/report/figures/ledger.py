"""The figure of the ledger: what was sent, by kind and direction."""

from __future__ import annotations

from collections import defaultdict
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mmkd.ledger import APART
from mmkd.palette import INK, MUTED, PAPER
from mmkd.tradeoff.report.appearance import appearances
from mmkd.tradeoff.report.figures.style import blank, short, tick, with_legend
from mmkd.tradeoff.report.writing import si
from mmkd.tradeoff.results import Results


def ledger(results: Results) -> Figure:
    """Bytes per peer by kind and direction, stacked; framing at the end, outlined."""
    methods = results.compared
    figure, axes = blank(1.5 + 0.42 * len(methods))
    appearance = appearances(results)
    kinds = sorted({kind for method in methods for run in method.runs for kind, _ in run.by_kind} - APART)
    hatches = {"up": "", "down": "////", "peer": "||||"}
    used = set()
    for row, method in enumerate(methods):
        left = 0.0
        parts: dict[tuple[str, str], float] = defaultdict(float)
        for run in method.runs:
            for (kind, way), nbytes in run.by_kind.items():
                parts[kind, "" if kind in APART else way] += nbytes / len(method.runs)
        axes.barh(row, sum(parts.values()), height=0.62, color=PAPER, linewidth=0)  # hides the grid
        for (kind, way), nbytes in sorted(parts.items(), key=lambda part: [*hatches, ""].index(part[0][1])):
            shade = 0.0 if kind in APART else 1 - 0.6 * kinds.index(kind) / max(1, len(kinds) - 1)
            style: Any = {"edgecolor": MUTED if kind in APART else PAPER, "hatch": hatches.get(way, "")}
            axes.barh(
                row, nbytes, left=left, height=0.62, color=(appearance[method.name].colour, shade), **style
            )
            left += nbytes
            used |= {way} - {""}
        total = si(method.mean("bytes"), "B")
        axes.annotate(total, (left, row), (5, 0), textcoords="offset points", va="center", fontsize=9.5)
    axes.set_yticks(range(len(methods)), [fill(short(method.label, 50), 26) for method in methods])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set(xlabel="bytes per peer", ylim=(len(methods) - 0.5, -0.5))
    axes.set_xlim(0, 1.22 * max(axes.get_xlim()[1], 1))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.grid(axis="y", visible=False)
    shades = [1 - 0.6 * i / max(1, len(kinds) - 1) for i in range(len(kinds))]
    entries: list[Any] = [Patch(color=(MUTED, s), label=k) for s, k in zip(shades, kinds, strict=True)]
    names = {"up": "up to the hub", "down": "down from the hub", "peer": "peer to peer"}
    entries += [
        Patch(facecolor=(MUTED, 0.5), edgecolor=PAPER, hatch=hatches[way], label=names[way])
        for way in names
        if way in used
    ]
    entries.append(Patch(facecolor="none", edgecolor=MUTED, label="framing, not counted"))
    return with_legend(figure, entries)
