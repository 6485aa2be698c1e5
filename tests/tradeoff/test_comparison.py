"""Two studies side by side say what the numbers of both say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmkd.tradeoff.report.comparison import around, compare, findings, settings, side_by_side
from mmkd.tradeoff.results import Results, read
from mmkd.types import ConfigError

GAINS = {"fedavg": (0.02, 0.03, 0.04), "ring": (-0.01, 0.0, 0.04)}
"""How much better peers are in the second study, by method and seed."""


@pytest.fixture
def folders(write: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A study, and another one with other versions, without the hybrid and with ``GAINS``."""
    first = write(["isolated", "ring", "fedavg", "hybrid", "pooled"])
    second = Path(shutil.copytree(first, tmp_path / "later"))
    shutil.rmtree(second / "runs" / "hybrid")
    page = json.loads((second / "study.json").read_text())
    page["versions"]["torch"] = "2.14.0"
    page["title"] = "The same <later>"
    (second / "study.json").write_text(json.dumps(page))
    for method, gains in GAINS.items():
        for seed, gain in enumerate(gains):
            path = second / "runs" / method / f"seed{seed}" / "result.json"
            result = json.loads(path.read_text())
            for tested in result["test"].values():
                tested["shared_accuracy"] += gain
            result["settings"]["model.clip"] = 2.0
            path.write_text(json.dumps(result))
    return first, second


@pytest.fixture
def pair(folders: tuple[Path, Path]) -> tuple[Results, Results]:
    return read(folders[0]), read(folders[1])


def test_methods_of_one_name_are_side_by_side(pair: tuple[Results, Results]) -> None:
    """FedAvg's .74 .75 .76 and .76 .78 .80; the ring's mean .74 + .02 / 3 gains a hundredth."""
    table = side_by_side(pair)
    rows: dict[Any, Any] = {row[0]: row[1:] for row in table.rows}
    assert rows["FedAvg within modality"] == [
        *("75.0 \u00b1 1.0", "78.0 \u00b1 2.0", "+3.0 [+2.0, +4.0]", "3.00 MB", "3.00 MB", "3, 3"),
    ]
    assert rows["Distillation on a ring"][2] == "+1.0 [\u22121.0, +4.0]"
    assert rows["Isolated"][2] == "+0.0 [+0.0, +0.0]"
    assert rows["Pooled, no privacy"][3:5] == ["\u2013", "\u2013"]
    hybrid = rows["Weights within, knowledge across modalities"]
    assert (hybrid[1:3], hybrid[5]) == (["\u2013", "\u2013"], "3, \u2013")
    assert [row[0] for row in table.rows][:2] == [
        "Weights within, knowledge across modalities",
        "FedAvg within modality",
    ]


def test_what_changes_clearly_is_said(pair: tuple[Results, Results]) -> None:
    assert findings(pair) == [
        "From A to B these change clearly, in percentage points: FedAvg within modality (+3.0 [+2.0, +4.0])."
    ]
    assert findings((pair[0], pair[0])) == [
        "Of 5 methods in both studies none differs clearly: all intervals contain 0."
    ]


def test_what_differs_between_them(pair: tuple[Results, Results]) -> None:
    assert ["version of torch", "2.13.0", "2.14.0"] in around(pair)
    assert not any(row[0] == "version of mmkd" for row in around(pair))
    assert settings(pair) == [
        ["model.clip", "Distillation on a ring and FedAvg within modality", "its default", "2.0"]
    ]
    assert settings((pair[0], pair[0])) == []


def test_the_page(folders: tuple[Path, Path], unrendered: None, capsys: pytest.CaptureFixture[str]) -> None:
    page = compare(*folders)
    assert page == folders[0] / "versus_later.html"
    text = page.read_text()
    assert "The same &lt;later&gt;" in text
    assert "Only A has Weights within, knowledge across modalities." in text
    assert "+3.0 [+2.0, +4.0]" in capsys.readouterr().out


def test_one_seed_has_no_interval_and_none_no_difference(pair: tuple[Results, Results]) -> None:
    def only(study: Results, seed: int) -> Results:
        for method in study.methods:
            method.runs[:] = [run for run in method.runs if run.seed == seed]
        return study

    first = only(pair[0], 1)
    assert "No method has two seeds in both studies" in findings((first, pair[1]))[0]
    rows: dict[Any, Any] = {row[0]: row[1:] for row in side_by_side((first, pair[1])).rows}
    assert rows["FedAvg within modality"][2] == "+3.0"
    rows = {row[0]: list(row[1:]) for row in side_by_side((first, only(pair[1], 2))).rows}
    assert rows["FedAvg within modality"][2] == "no seed shared"


def test_other_metrics_cannot_be_compared(folders: tuple[Path, Path]) -> None:
    for path in folders[1].glob("runs/*/*/result.json"):
        text = path.read_text().replace("shared_accuracy", "map50")
        path.write_text(text)
    for path in folders[1].glob("runs/*/*/curve.csv"):
        path.write_text(path.read_text().replace("shared_accuracy", "map50"))
    with pytest.raises(ConfigError, match=r"is compared by Shared and .*later by mAP50"):
        compare(*folders)
