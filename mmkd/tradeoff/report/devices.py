"""What students would be on a device: scores against bytes sent, size, latency and memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from mmkd.files import replacing
from mmkd.tables import write_rows
from mmkd.tradeoff.devices import OnDevice, mean
from mmkd.tradeoff.pareto import Deal, Spread, front, spread
from mmkd.tradeoff.report.page import Cell, Table
from mmkd.tradeoff.report.writing import plus_minus, si
from mmkd.tradeoff.results import Method, Results

MIB = 2**20
"""Bytes."""


class Artefact(NamedTuple):
    """The files that one recipe made of the students of one method; means over peers, then over seeds."""

    method: Method
    recipe: str
    score: Spread
    sent: float  # bytes a peer sends and receives while it trains
    device: OnDevice


class Axis(NamedTuple):
    """A cost."""

    name: str
    label: str
    unit: str


AXES = (
    Axis("sent", "bytes per peer", "B"),
    Axis("size", "bytes of the file", "B"),
    Axis("latency", "one sample on one core", "s"),
    Axis("memory", "memory of the process", "B"),
)
"""What scores are drawn against."""


def artefacts(results: Results) -> list[Artefact]:
    """Those of all methods in the study's order; of a method, the recipes that every measured seed has."""
    found = []
    for method in results.compared:
        runs = [run for run in method.runs if run.device]
        for recipe in dict.fromkeys(name for run in runs for name in run.device):
            if any(recipe not in run.device for run in runs):
                continue
            each = [mean(run.device[recipe]) for run in runs]
            device = OnDevice(*map(fmean, zip(*each, strict=True)))
            sent = fmean(run.bytes for run in runs)
            found.append(Artefact(method, recipe, spread(one.score for one in each), sent, device))
    return found


def costs(artefact: Artefact) -> Mapping[str, float]:
    """Its cost on each axis, in bytes and seconds."""
    device = artefact.device
    return {
        "sent": artefact.sent,
        "size": device.bytes,
        "latency": device.median_ms / 1e3,
        "memory": device.peak_mib * MIB,
    }


def best(found: list[Artefact], axis: Axis) -> list[int]:
    """Positions of those that no other dominates on an axis."""
    return front([Deal(costs(one)[axis.name], one.score.mean) for one in found])


def on_devices(results: Results, found: list[Artefact]) -> Table:
    """A row for each."""
    head = [
        "Method", "Recipe", f"{results.metric.head} %", "Bytes sent", "File", "Latency", "95 % below",
        "Memory", "Best for",
    ]  # fmt: skip
    fronts = {axis.name: best(found, axis) for axis in AXES}
    rows: list[list[Cell]] = []
    for place, (method, recipe, score, sent, device) in enumerate(found):
        rows.append(
            [
                method.label,
                recipe,
                plus_minus(score),
                si(sent, "B"),
                si(device.bytes, "B"),
                f"{device.median_ms:.2f} ms",
                f"{device.p95_ms:.2f} ms",
                f"{device.peak_mib:.0f} MiB",
                ", ".join(name for name, places in fronts.items() if place in places) or "\u2013",
            ]
        )
    note = (
        "Files of the peers that were measured, means over these peers: their scores are those of the files."
        " Bytes sent: while training, over all edges, a peer. Latency: one sample on one core, median and the"
        " value that 95 % stay below. Memory: of the whole process. Best for: no other file scores more at a"
        " lower cost of this kind."
    )
    return Table(head, rows, words=2, note=note)


def write(found: list[Artefact], path: Path) -> None:
    """Write a table of all, with intervals; the file is replaced at once."""
    head = ["method", "recipe", "seeds", "score", "low", "high", "sent_bytes", *OnDevice._fields[1:]]
    rows = [
        [
            one.method.name,
            one.recipe,
            one.score.count,
            *(round(value, 4) for value in (one.score.mean, *one.score.interval())),
            round(one.sent),
            *(round(value, 4) for value in one.device[1:]),
        ]
        for one in found
    ]
    with replacing(path) as part, part.open("w", newline="") as file:
        write_rows(file, [head, *rows])
