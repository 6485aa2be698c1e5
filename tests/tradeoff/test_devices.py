"""What a report says of students on a device, from numbers that are derived by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd.tradeoff.report.appearance import appearances
from mmkd.tradeoff.report.devices import AXES, artefacts, best, costs, on_devices
from mmkd.tradeoff.report.devices import write as write_table
from mmkd.tradeoff.report.figures.devices import devices
from mmkd.tradeoff.report.report import report
from mmkd.tradeoff.results import read
from mmkd.types import ConfigError
from tests.tradeoff.test_report import edit

Write = Callable[..., Path]
FILES = {"original": (0.0, 100_000, 1.0, 60.0), "8 bits": (-0.02, 50_000, 2.0, 64.0)}
"""Recipes: what the score is above 0.8, bytes, milliseconds, memory."""


def written(folder: Path) -> Path:
    """Two methods with files of two peers; of the second method the third seed has none.

    Scores rise by 0.01 a seed and are 0.1 lower on the ring; the second peer's file is twice as large.
    """
    for method, seed in [*(("distillation", s) for s in range(3)), ("ring", 0), ("ring", 1)]:
        rows = {
            peer: {
                recipe: {
                    "score": 0.8 + more + 0.01 * seed - 0.1 * (method == "ring"),
                    "bytes": size * (1 + number),
                    "median_ms": ms,
                    "p95_ms": 2 * ms,
                    "peak_mib": mib,
                    "model_mib": mib / 4,
                }
                for recipe, (more, size, ms, mib) in FILES.items()
            }
            for number, peer in enumerate(("cameras/0", "phones/0"))
        }
        (folder / "runs" / method / f"seed{seed}" / "device.json").write_text(json.dumps(rows))
    return folder


def test_means_and_fronts(write: Write, tmp_path: Path) -> None:
    results = read(written(write()))
    found = artefacts(results)
    assert [(one.method.name, one.recipe, one.score.count) for one in found] == [
        ("distillation", "original", 3),
        ("distillation", "8 bits", 3),
        ("ring", "original", 2),
        ("ring", "8 bits", 2),
    ]
    assert [one.score.mean for one in found] == pytest.approx([0.81, 0.79, 0.705, 0.685])
    assert costs(found[0]) == pytest.approx(
        {"sent": 160_000, "size": 150_000, "latency": 1e-3, "memory": 60 * 2**20}
    )
    # On the ring 18,000 bytes were sent; its files are as large and as fast, and score less.
    fronts = {axis.name: best(found, axis) for axis in AXES}
    assert fronts == {"sent": [2, 0], "size": [1, 0], "latency": [0], "memory": [0]}
    table = on_devices(results, found)
    assert [row[-1] for row in table.rows] == ["sent, size, latency, memory", "size", "sent", "\u2013"]
    write_table(found, tmp_path / "devices.csv")
    rows = list(csv.DictReader((tmp_path / "devices.csv").read_text().splitlines()))
    assert [(row["recipe"], float(row["low"]), float(row["high"]), row["bytes"]) for row in rows[:2]] == [
        ("original", 0.8, 0.82, "150000.0"),
        ("8 bits", 0.78, 0.8, "75000.0"),
    ]


def test_methods_have_the_colours_of_all_other_figures(write: Write) -> None:
    results = read(written(write()))
    looks = appearances(results)
    figure = devices(results)
    handles = {handle.get_label(): handle for handle in figure.legends[0].legend_handles}
    for method in ("distillation", "ring"):
        label = results.study["methods"][method]["label"]
        assert handles[label].get_markeredgecolor() == looks[method].colour
        drawn = [line for line in figure.axes[1].lines if line.get_markeredgecolor() == looks[method].colour]
        assert {line.get_marker() for line in drawn} >= {"o", "s"}
    assert looks["distillation"].colour != looks["ring"].colour


def test_a_report_has_a_section_where_files_were_measured(write: Write) -> None:
    folder = write(methods=["distillation", "ring"])
    assert artefacts(read(folder)) == []
    text = report(written(folder)).read_text()
    assert "On a device" in text
    assert (folder / "figures" / "devices.png").stat().st_size > 10_000
    assert (folder / "devices.csv").is_file()


@pytest.mark.parametrize("change", [
    lambda rows: rows["cameras/0"].pop("8 bits"),
    lambda rows: rows["cameras/0"]["8 bits"].pop("bytes"),
    lambda rows: rows["cameras/0"]["8 bits"].update(score=float("nan")),
    lambda rows: rows.update({"cameras/0": None}),
])  # fmt: skip
def test_a_file_that_is_broken_is_named(write: Write, change: Callable[[object], object]) -> None:
    folder = written(write())
    edit(folder / "runs" / "ring" / "seed1" / "device.json", change)
    with pytest.raises(ConfigError, match=r"ring/seed1/device\.json cannot be read"):
        read(folder)
