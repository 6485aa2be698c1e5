"""Figures of peers: the graph of who sends to whom, and the labels of each peer's samples."""

from __future__ import annotations

from collections import defaultdict
from math import ceil, cos, pi, sin
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mmkd.palette import BLACK, GREY, INK, MUTED, PAPER, SKY, YELLOW
from mmkd.tradeoff.report.appearance import Appearance
from mmkd.tradeoff.report.figures.style import WIDTH, blank, short, with_legend
from mmkd.tradeoff.results import Graph, Method, Results, Run

MODALITIES = ((YELLOW, "o"), (INK, "s"), (GREY, "^"), (PAPER, "D"))
"""Colours of modalities, in the order in which they appear."""


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
        Line2D(
            [],
            [],
            **Appearance(colour, marker, filled=True).marker_settings(8, markeredgecolor=MUTED),
            label=modality,
        )
        for modality, (colour, marker) in markers.items()
    ]
    return with_legend(figure, entries)


def label_skew(results: Results) -> Figure:
    """Private samples of each peer and class, of the first run."""
    run = (results.compared or results.methods)[0].runs[0]
    counts = [peer.label_counts for peer in run.peers.values()]
    most = max(max(row, default=0) for row in counts) or 1
    figure, axes = blank(0.8 + 0.3 * len(counts))
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            share = count / most
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=(SKY, share), edgecolor=PAPER))
            if count and len(row) <= 20:
                ink = BLACK if share > 0.5 else INK
                axes.text(
                    x + 0.5, y + 0.5, str(round(count, 1)), ha="center", va="center", fontsize=8, color=ink
                )
    classes = max(map(len, counts))
    axes.set(xlim=(0, classes), ylim=(len(counts), 0), xlabel="class")
    every = ceil(classes / 20)
    axes.set_xticks([i + 0.5 for i in range(0, classes, every)], [str(i) for i in range(0, classes, every)])
    axes.set_yticks([i + 0.5 for i in range(len(counts))], [short(name, 20) for name in run.peers])
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


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
        appearance = Appearance(colour, marker, filled=True)
        axes.plot(*where[name], zorder=3, **appearance.marker_settings(size, markeredgecolor=MUTED))
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", anchor="S")
