"""The figures of a study. A method keeps its colour and marker in all of them."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import cycle, pairwise, product
from math import ceil, cos, log10, pi, sin
from pathlib import Path
from statistics import fmean
from textwrap import fill, wrap
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from mmkd.ledger import FRAMING
from mmkd.tradeoff.pareto import Deal, front, spread
from mmkd.tradeoff.report.page import Cell, Swatch, inline, si
from mmkd.tradeoff.results import Graph, Method, Point, Results, Run

WIDTH = 5.6
"""Inches across a figure: narrow, so that a phone need not shrink the letters much."""
INK = "#24292e"
"""The colour of letters."""
MUTED = "#656d76"
"""The colour of what stands back."""
LINE = "#d9dee3"
"""The colour of lines."""
PAPER = "#ffffff"
"""The colour of the ground."""
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of methods, which colour-blind readers tell apart (Okabe and Ito); black and yellow are left to
modalities."""
MODALITIES = (("#f0e442", "o"), (INK, "s"), ("#999999", "^"), (PAPER, "D"))
"""The colour and the marker of each modality."""
MARKERS = {"weights": "s", "knowledge": "o", "both": "D", "none": "^"}
"""The marker of each family of methods."""
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
"""Matplotlib's settings for all figures of a report."""


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
    pairs = cycle(product((True, False), PALETTE))
    for name, method in results.study["methods"].items():
        family = method["family"]
        if family in ("none", "ceiling"):
            found[name] = Look(MUTED, MARKERS.get(family, "_"), filled=True)
            continue
        for _ in range(2 * len(PALETTE)):
            filled, colour = next(pairs)
            found[name] = Look(colour, MARKERS[family], filled)
            if list(found.values()).count(found[name]) == 1:
                break
    return found


def swatch(method: Method, look: Look) -> Cell:
    """The method's name beside its colour, for a table."""
    if method.family == "ceiling":
        return method.label
    return Swatch(method.label, PAGE_COLOURS.get(look.colour, look.colour), look.filled)


PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)"}
"""The page's own colours, light or dark, which stand for those of a figure."""


def save(draw: Callable[[Results], Figure], results: Results, folder: Path) -> str:
    """Draw, write ``<name of draw>.png`` (the same bytes every time), and return inline SVG."""
    text, name = io.StringIO(), draw.__name__
    with matplotlib.rc_context(RC):
        figure = draw(results)
        figure.savefig(folder / f"{name}.png", dpi=180, facecolor="white", metadata={"Software": None})
        figure.savefig(text, format="svg", transparent=True)
    return inline(text.getvalue(), name, PAGE_COLOURS)


def headline(results: Results) -> Figure:
    """Shared test accuracy against bytes per peer: means, seeds, curves, Pareto front, ceilings."""
    figure, axes = _axes(4.2)
    look, entries = looks(results), []
    place = _byte_axis(axes, results)
    deals = []
    for method in results.compared:
        own = look[method.name]
        curve = [point for point in _mean_curve(method) if point.bytes > 0]
        spent, reached = [p.bytes for p in curve], [_pc(p.shared) for p in curve]
        axes.plot(spent, reached, color=own.colour, alpha=0.35, linewidth=1.2)
        for run in method.runs:
            axes.plot(place(run.bytes), _pc(run.shared), **own.marks(4.5, alpha=0.4, markeredgewidth=0.8))
        deals.append(Deal(method.mean("bytes"), method.mean("shared")))
        axes.plot(place(deals[-1].cost), _pc(deals[-1].gain), zorder=4, **own.marks())
        entries.append(_entry(method, own))
    best = [deals[i] for i in front(deals)]
    right = axes.get_xlim()[1]
    # Curves begin far below what the runs end at; the axis is for the ends.
    ends = [_pc(run.shared) for method in results.methods for run in method.runs]
    room = max(1.0, 0.12 * (max(ends) - min(ends)))
    axes.set_ylim(min(ends) - room, max(ends) + room)
    axes.step(
        [*(place(deal.cost) for deal in best), right],
        [*(_pc(deal.gain) for deal in best), _pc(best[-1].gain)] if best else [0],
        where="post",
        color=INK,
        linewidth=1,
        zorder=3,
    )
    entries += _ceilings(axes, results)
    axes.set(xlabel="bytes per peer (log scale)", ylabel=f"{results.score('test')} (%)")
    entries.append(Line2D([], [], color=INK, linewidth=1, label="Pareto front"))
    entries.append(Line2D([], [], color=MUTED, alpha=0.5, linewidth=1.2, label="validation while training"))
    return _with_legend(figure, entries)


def rounds(results: Results) -> Figure:
    """Shared validation accuracy by round: mean over seeds, and the range in which they lie."""
    figure, axes = _axes(4.0)
    look, entries = looks(results), []
    for method in results.methods:
        own = look[method.name]
        style: Any = "--" if method.family == "ceiling" else "-" if own.filled else (0, (4, 1))
        curves = list(_by_round(method).items())
        if not curves:
            continue
        at = [number for number, _ in curves]
        spreads = [spread(point.shared for point in found) for _, found in curves]
        line: Any = {"color": own.colour, "linestyle": style, "linewidth": 1.6}
        if method.family != "ceiling":
            line |= own.marks(5) | line
        axes.plot(at, [_pc(s.mean) for s in spreads], markevery=[-1], **line)
        lows, highs = [_pc(s.low) for s in spreads], [_pc(s.high) for s in spreads]
        axes.fill_between(at, lows, highs, color=own.colour, alpha=0.14, linewidth=0)
        entries.append(Line2D([], [], label=_short(method.label, 60), **line))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="round", ylabel=f"{results.score('validation')} (%)")
    return _with_legend(figure, entries)


def private_and_shared(results: Results) -> Figure:
    """What a peer is asked at home against what all peers are asked."""
    figure, axes = _axes(4.0)
    look = looks(results)
    for method in results.compared:
        own = look[method.name]
        for run in method.runs:
            faint = own.marks(4.5, alpha=0.4, markeredgewidth=0.8)
            axes.plot(_pc(run.shared), _pc(run.private), **faint)
        axes.plot(_pc(method.mean("shared")), _pc(method.mean("private")), zorder=4, **own.marks())
    axes.set(xlabel="mean shared test accuracy (%)", ylabel="mean private test accuracy (%)")
    return _with_legend(figure, [_entry(method, look[method.name]) for method in results.compared])


def ledger(results: Results) -> Figure:
    """Bytes per peer by kind and direction, stacked; framing at the end, outlined."""
    methods = results.compared
    figure, axes = _axes(1.5 + 0.42 * len(methods))
    look = looks(results)
    kinds = sorted({kind for method in methods for run in method.runs for kind, _ in run.by_kind} - {FRAMING})
    hatches = {"up": "", "down": "////", "peer": "||||"}
    used = set()
    for row, method in enumerate(methods):
        left = 0.0
        parts: dict[tuple[str, str], float] = defaultdict(float)
        for run in method.runs:
            for (kind, way), nbytes in run.by_kind.items():
                parts[kind, "" if kind == FRAMING else way] += nbytes / len(method.runs)
        axes.barh(row, sum(parts.values()), height=0.62, color=PAPER, linewidth=0)  # hides the grid
        for (kind, way), nbytes in sorted(parts.items(), key=lambda part: [*hatches, ""].index(part[0][1])):
            shade = 0.0 if kind == FRAMING else 1 - 0.6 * kinds.index(kind) / max(1, len(kinds) - 1)
            style: Any = {"edgecolor": MUTED if kind == FRAMING else PAPER, "hatch": hatches.get(way, "")}
            axes.barh(row, nbytes, left=left, height=0.62, color=(look[method.name].colour, shade), **style)
            left += nbytes
            used |= {way} - {""}
        total = si(method.mean("bytes"), "B")
        axes.annotate(total, (left, row), (5, 0), textcoords="offset points", va="center", fontsize=9.5)
    axes.set_yticks(range(len(methods)), [fill(_short(method.label, 50), 26) for method in methods])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set(xlabel="bytes per peer", ylim=(len(methods) - 0.5, -0.5))
    axes.set_xlim(0, 1.22 * max(axes.get_xlim()[1], 1))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
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
    return _with_legend(figure, entries)


def topologies(results: Results) -> Figure:
    """Who sends to whom in round 0; methods that use the same graph share a panel."""
    shared: dict[tuple[Graph, tuple[str, ...]], list[Method]] = defaultdict(list)
    for method in results.compared:
        shared[method.runs[0].graph, tuple(method.runs[0].peers)].append(method)
    columns = min(3, len(shared))
    titles = [_graph_title(graph, methods) for (graph, _), methods in shared.items()]
    lines = 1 + max(title.count("\n") for title in titles)
    rows = ceil(len(shared) / columns)
    figure = Figure(
        figsize=(WIDTH, rows * (5.1 / max(columns, 2) + 0.17 * lines) + 0.4), layout="constrained"
    )
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    markers = {m: MODALITIES[i % len(MODALITIES)] for i, m in enumerate(results.modalities)}
    for axes in panels:
        axes.axis("off")
    for axes, title, ((graph, _), methods) in zip(panels, titles, shared.items(), strict=False):
        _draw_graph(axes, graph, methods[0].runs[0], markers)
        axes.set_title(title, fontsize=8.5, color=INK)
    entries = [
        Line2D([], [], **Look(colour, marker, filled=True).marks(8, markeredgecolor=MUTED), label=modality)
        for modality, (colour, marker) in markers.items()
    ]
    return _with_legend(figure, entries)


def label_skew(results: Results) -> Figure:
    """Private samples of each peer and class, of the first run."""
    run = (results.compared or results.methods)[0].runs[0]
    counts = [peer.label_counts for peer in run.peers.values()]
    most = max(max(row, default=0) for row in counts) or 1
    figure, axes = _axes(0.8 + 0.3 * len(counts))
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            share = count / most
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=("#56b4e9", share), edgecolor=PAPER))
            if count and len(row) <= 20:
                ink = "#000000" if share > 0.5 else INK
                axes.text(x + 0.5, y + 0.5, str(count), ha="center", va="center", fontsize=8, color=ink)
    classes = max(map(len, counts))
    axes.set(xlim=(0, classes), ylim=(len(counts), 0), xlabel="class")
    every = ceil(classes / 20)
    axes.set_xticks([i + 0.5 for i in range(0, classes, every)], [str(i) for i in range(0, classes, every)])
    axes.set_yticks([i + 0.5 for i in range(len(counts))], [_short(name, 20) for name in run.peers])
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def _ceilings(axes: Axes, results: Results) -> list[Line2D]:
    """A line for each ceiling with its name on it or, where names would overprint, in the legend."""
    ceilings = sorted(results.ceilings, key=lambda method: method.mean("shared"), reverse=True)
    heights = [_pc(method.mean("shared")) for method in ceilings]
    low, high = axes.get_ylim()
    crowded = any(a - b < 0.06 * (high - low) for a, b in pairwise(heights))
    entries = []
    for i, (method, height) in enumerate(zip(ceilings, heights, strict=True)):
        style: Any = {"color": MUTED, "linewidth": 1, "linestyle": (0, (6, 2) + i * (1, 2))}
        axes.axhline(height, **style)
        if crowded:
            entries.append(Line2D([], [], label=f"{height:.1f} %: {_short(method.label, 60)}", **style))
        else:
            axes.annotate(
                method.label, (0, height), (4, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", color=MUTED, fontsize=9,
            )  # fmt: skip
    return entries


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _with_legend(figure: Figure, entries: list[Any]) -> Figure:
    """Add a legend below, in a strip of its own."""
    columns = 3 if all(len(entry.get_label()) <= 22 for entry in entries) else 2
    for entry in entries:
        entry.set_label(fill(entry.get_label(), 38))
    rows = ceil(len(entries) / columns)
    lines = [1 + entry.get_label().count("\n") for entry in entries]
    most = max(sum(lines[i : i + rows]) for i in range(0, len(lines), rows))
    figure.set_figheight(figure.get_figheight() + 0.2 * most)
    figure.legend(handles=entries, loc="outside lower center", ncol=columns, handlelength=1.6)
    return figure


def _entry(method: Method, look: Look) -> Line2D:
    return Line2D([], [], label=_short(method.label, 60), **look.marks(7.5))


def _short(label: str, length: int = 36) -> str:
    return label if len(label) <= length else label[: length - 1] + "\u2026"


def _tick(nbytes: float) -> str:
    return si(nbytes, "B").replace(".00 ", " ").replace(".0 ", " ")


def _pc(share: float) -> float:
    return 100 * share


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


def _byte_axis(axes: Axes, results: Results) -> Callable[[float], float]:
    """A log axis; where something costs nothing, with a place for 0 B left of a break.

    Returns:
        The position on the axis of a number of bytes.
    """
    costs = [run.bytes for method in results.compared for run in method.runs]
    positive = [c for c in costs if c > 0]
    positive += [p.bytes for method in results.compared for p in _mean_curve(method) if p.bytes > 0]
    low, high = log10(min(positive, default=1e3)), log10(max(positive, default=1e6))
    span = max(high - low, 1.0)
    free = 0 in costs
    zero = 10 ** (low - 0.17 * span)
    left, right = low - (0.24 if free else 0.05) * span, high + 0.06 * span
    axes.set_xscale("log")
    axes.set_xlim(10**left, 10**right)
    steps = (1,) if span > 2 else (1, 3) if span > 1.2 else (1, 2, 5)
    ticks = [step * 10**e for e in range(int(low) - 1, int(high) + 2) for step in steps]
    ticks = [tick for tick in ticks if low - 0.02 * span <= log10(tick) <= right]
    axes.xaxis.set_major_locator(FixedLocator([*([zero] if free else []), *ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0 B" if value <= zero else _tick(value)))
    if free:
        gap = 10 ** (low - 0.09 * span)
        axes.axvspan(10**left, gap, color=LINE, alpha=0.35, linewidth=0)
        foot = axes.get_xaxis_transform()
        axes.plot(gap, 0, marker="s", markersize=7, color=PAPER, transform=foot, clip_on=False, zorder=5)
        axes.text(gap, 0, "//", transform=foot, ha="center", va="center", color=MUTED, zorder=6)
    return lambda nbytes: nbytes if nbytes > 0 else zero


def _graph_title(graph: Graph, methods: list[Method]) -> str:
    texts = [graph.name if graph.edges else "nobody is heard", *(method.label for method in methods)]
    if len(texts) > 5:
        texts[4:] = [f"and {len(texts) - 4} more"]
    return "\n".join(line for text in texts for line in wrap(text, 22))


def _draw_graph(axes: Axes, graph: Graph, run: Run, markers: dict[str, tuple[str, str]]) -> None:
    """Peers on a circle, modality by modality, and the hub in its centre."""
    names = sorted(run.peers, key=lambda name: list(markers).index(run.peers[name].modality))
    turn = 2 * pi / len(names)
    where = {name: (sin(i * turn), cos(i * turn)) for i, name in enumerate(names)}
    size = max(3.0, min(9.0, 90 / len(names)))
    if graph.hub is not None:
        where[graph.hub] = (0.0, 0.0)
        axes.plot(0, 0, marker="h", markersize=13, color=MUTED, zorder=3)
        axes.text(0, 0, "hub", ha="center", va="center", fontsize=5.5, color=PAPER, zorder=4)
    faint = max(0.15, min(0.8, 40 / max(1, len(graph.edges))))
    for sender, receiver in sorted(graph.edges):
        (x0, y0), (x1, y1) = where[sender], where[receiver]
        if (receiver, sender) not in graph.edges:
            arrow = {"arrowstyle": "-|>", "color": MUTED, "alpha": faint, "shrinkB": size * 0.6}
            axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
        elif sender < receiver:
            axes.plot([x0, x1], [y0, y1], color=MUTED, alpha=faint, linewidth=0.8, zorder=1)
    for name in names:
        colour, marker = markers[run.peers[name].modality]
        look = Look(colour, marker, filled=True)
        axes.plot(*where[name], zorder=3, **look.marks(size, markeredgecolor=MUTED))
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", anchor="S")
