"""A report of regressors: R^2 on the axis, below 0 too, errors in the summary, and no classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest

from mmkd.tradeoff.report.figures.scores import headline
from mmkd.tradeoff.report.report import report
from mmkd.tradeoff.report.summary import summary
from mmkd.tradeoff.report.tables import order
from mmkd.tradeoff.results import read


@pytest.fixture
def study(write: Callable[..., Path]) -> Path:
    """Regressors in two methods, one worse than the mean of the samples; and a metric of one's own."""
    folder = write(["isolated", "fedavg"], (0,))
    for method, shift in (("isolated", -0.5), ("fedavg", 0.25)):
        path = folder / "runs" / method / "seed0" / "result.json"
        saved = json.loads(path.read_text()) | {"metric": "r2"}
        for i, (name, kinds) in enumerate(saved["test"].items()):
            kinds.clear()
            kinds |= {"r2": shift + i / 100, "mse": 1234.5, "mae": 2.0, "mine": 0.5}
            saved["peers"][name]["label_counts"] = [0]
        path.write_text(json.dumps(saved))
        curve = path.with_name("curve.csv")
        curve.write_text(curve.read_text().replace("shared_accuracy,private_accuracy", "r2,mse"))
    return folder


def test_the_summary_has_r2_and_errors(study: Path) -> None:
    rows = {row["method"]: row for row in summary(read(study))}
    assert rows["isolated"]["r2"] == pytest.approx(-0.5 + fmean(i / 100 for i in range(12)))
    assert rows["isolated"]["worst"] == -0.5
    assert rows["fedavg"]["mse"] == 1234.5


@pytest.mark.usefixtures("unrendered")
def test_the_page_says_r2_and_shows_no_classes(study: Path) -> None:
    text = report(study).read_text()
    assert "R\u00b2" in headline(read(study)).axes[0].get_ylabel()
    assert order(read(study)).head[2] == "R2 %"
    for title in ("Modality by modality", "Who they are"):
        assert f"<h2>{title}</h2>" in text
    assert "by class" not in text
    assert "accuracy" not in text.lower()
