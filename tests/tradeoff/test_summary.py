"""The small table says what the report says, in numbers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd.tradeoff.report.report import report
from mmkd.tradeoff.report.summary import summary
from mmkd.tradeoff.results import read

Write = Callable[..., Path]


def test_a_row_a_method_in_the_order_of_the_study(write: Write) -> None:
    # Shared accuracies of seeds 0, 1, 2: FedAvg .74 .75 .76; hub .772 .777 .792, so +3.2, +2.7, +3.2 points.
    rows = {row["method"]: row for row in summary(read(write()))}
    assert list(rows) == ["isolated", "distillation", "ring", "fedavg", "hybrid", "pooled"]
    hub, fedavg = rows["distillation"], rows["fedavg"]
    assert (fedavg["shared"], fedavg["std"], fedavg["low"], fedavg["high"]) == (0.75, 0.01, 0.74, 0.76)
    assert (fedavg["bytes"], fedavg["seconds"], fedavg["seeds"]) == (3_000_000, 62, 3)
    assert float(fedavg["flops"]) == 1.2e12
    assert fedavg["gap"] == fedavg["gap_low"] == ""
    assert hub["gap"] == pytest.approx((0.032 + 0.027 + 0.032) / 3, abs=1e-4)
    assert (hub["gap_low"], hub["gap_high"]) == (0.027, 0.032)
    # Four peers a modality, 0.002 apart in their order, around the mean of all twelve: -0.008, 0, +0.008.
    assert [fedavg[m] for m in ("image", "audio", "text")] == [0.742, 0.75, 0.758]


def test_one_seed_has_no_deviation_and_no_fedavg_no_gap(write: Write) -> None:
    (row,) = summary(read(write(["ring"], seeds=(0,))))
    assert row["std"] == row["gap"] == row["gap_high"] == ""
    assert row["low"] == row["high"] == row["shared"]


@pytest.mark.usefixtures("unrendered")
def test_the_report_writes_it(write: Write) -> None:
    folder = write()
    report(folder)
    with (folder / "summary.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [{k: str(v) for k, v in row.items()} for row in summary(read(folder))]
