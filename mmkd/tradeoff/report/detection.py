"""Sections of a report on detectors: precision by peer, time and memory of a frame, and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import fmean

from mmkd.tradeoff.report.appearance import appearances, swatch
from mmkd.tradeoff.report.page import Cell, Details, Gallery, Section, Table
from mmkd.tradeoff.report.writing import percent
from mmkd.tradeoff.results import Method, Results

KINDS = {"precision": "Precision %", "recall": "Recall %", "map50": "mAP50 %", "map": "mAP50-95 %"}
"""The metrics of detectors that a report shows, and the headings of their columns."""


def sections(results: Results) -> list[Section]:
    """Tables and pictures, in the order of the page."""
    out = [
        Section(
            "Peer by peer", [by_peer(results), overall(results), Details("Every figure", [every(results)])]
        )
    ]
    if any(run.cost for method in results.methods for run in method.runs):
        out.append(Section("What a frame costs", [cost(results)]))
    if any(run.pictures for method in results.methods for run in method.runs):
        out.append(Section("What they see", [pictures(results)]))
    return out


def by_peer(results: Results) -> Table:
    """mAP50 of every peer."""
    names = list(results.methods[0].runs[0].peers)
    appearance = appearances(results)
    rows: list[list[Cell]] = [
        [
            swatch(method, appearance[method.name]),
            *(_cell(method, "map50", name) for name in names),
            percent(method.mean("score")),
        ]
        for method in results.methods
    ]
    note = "Average precision at an IoU of 0.5 in each peer's own test frames, mean over seeds."
    return Table(["mAP50 %", *names, "all"], rows, note=note)


def overall(results: Results) -> Table:
    """All four metrics, as means over peers."""
    appearance = appearances(results)
    rows: list[list[Cell]] = []
    for method in results.methods:
        names = list(method.runs[0].peers)
        means = [fmean(_scores(method, kind, names)) for kind in KINDS]
        rows.append([swatch(method, appearance[method.name]), *map(percent, means)])
    return Table(["Mean over peers", *KINDS.values()], rows, note=f"Precision and recall: {_at(results)}.")


def every(results: Results) -> Table:
    """All four metrics of every peer."""
    rows: list[list[Cell]] = [
        [method.label, name, *(_cell(method, kind, name) for kind in KINDS)]
        for method in results.methods
        for name in method.runs[0].peers
    ]
    return Table(["Method", "Peer", *KINDS.values()], rows, words=2)


def cost(results: Results) -> Table:
    """Size, latency and memory of the students, each architecture once."""
    found: dict[tuple[str, float], list[Cell]] = {}
    for method in results.methods:
        for run in method.runs:
            for fleet, of in run.cost.items():
                numbers = [f"{of['milliseconds']:.1f}", f"{of['mebibytes']:.1f}"]
                row: list[Cell] = [fleet, method.label, f"{of['parameters']:,.0f}", *numbers]
                found.setdefault((fleet, of["parameters"]), row)
    note = (
        "One frame through the network and its suppression on one core, median of twenty; weights and the"
        " most that is held at once of what is computed. Measured in the first run of the method named."
    )
    return Table(["Fleet", "In", "Parameters", "ms", "MiB"], list(found.values()), words=2, note=note)


def pictures(results: Results) -> Gallery:
    """One test frame of every peer, a method a column."""
    shown = [method for method in results.methods if method.runs[0].pictures]
    names = list(shown[0].runs[0].peers)
    rows = [(name, [_read(method, name) for method in shown]) for name in names]
    caption = (
        "The middle test frame of every peer in the first seed. Green: objects. Orange: what is detected"
        " with the score from which precision and recall count."
    )
    return Gallery([method.label for method in shown], rows, caption)


def _read(method: Method, name: str) -> bytes:
    path = method.runs[0].pictures.get(name)
    return b"" if path is None else path.read_bytes()


def _cell(method: Method, kind: str, name: str) -> str:
    """The mean over seeds; a dash for a peer without test samples, or that sat out in all of them."""
    found = list(_scores(method, kind, [name]))
    return percent(found[0]) if found else "\u2013"


def _scores(method: Method, kind: str, names: Iterable[str]) -> Iterator[float]:
    """The means over seeds of the peers that have a score."""
    for name in names:
        if found := [run.test[name].get(kind, 0.0) for run in method.runs if name in run.test]:
            yield fmean(found)


def _at(results: Results) -> str:
    """The score from which detections count for precision and recall."""
    settings = results.methods[0].runs[0].settings
    return f"detections of a score of at least {settings.get('model.threshold', 0.5)}, at an IoU of 0.5"
