"""A report of detectors: mAP50 on the axis, every peer, what a frame costs, and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torchvision.io import encode_jpeg

from mmkd.tradeoff.report.detection import by_peer, cost, every, overall, pictures
from mmkd.tradeoff.report.figures.scores import headline, rounds
from mmkd.tradeoff.report.page import Swatch, Table
from mmkd.tradeoff.report.report import report
from mmkd.tradeoff.report.summary import summary
from mmkd.tradeoff.report.tables import order
from mmkd.tradeoff.report.words import lead
from mmkd.tradeoff.results import read

SHOT = bytes(encode_jpeg(torch.full((3, 8, 8), 99, dtype=torch.uint8)))
SEEDS = (0, 1)


def rows(table: Table) -> dict[str, list[str]]:
    words = [[cell.text if isinstance(cell, Swatch) else cell for cell in row] for row in table.rows]
    return {row[0]: row[1:] for row in words}


def figure(seed: int, position: int, kind: str) -> float:
    """Between 0 and 1, and another for everything."""
    return (10 * seed + position + {"precision": 30, "recall": 45, "map50": 60, "map": 15}[kind]) / 100


@pytest.fixture
def study(write: Callable[..., Path]) -> Path:
    """Detectors in two methods and two seeds; pictures of the first peer, in the first seed of one of them."""
    folder = write(["isolated", "distillation"], SEEDS)
    for seed in SEEDS:
        for method, size in (("isolated", 1000), ("distillation", 2000)):
            path = folder / "runs" / method / f"seed{seed}" / "result.json"
            saved = json.loads(path.read_text()) | {"metric": "map50"}
            for i, kinds in enumerate(saved["test"].values()):
                kinds.clear()
                kinds |= {kind: figure(seed, i, kind) for kind in ("precision", "recall", "map50", "map")}
            one = {"milliseconds": 7.25, "mebibytes": 2.5, "parameters": size}
            saved["cost"] = {"cameras": one, "phones": one | {"parameters": 77}}
            path.write_text(json.dumps(saved))
            curve = path.with_name("curve.csv")
            text = curve.read_text().replace("shared_accuracy,private_accuracy", "map50,unread")
            curve.write_text(text)
    (folder / "runs" / "isolated" / "seed0" / "pictures").mkdir()
    (folder / "runs" / "isolated" / "seed0" / "pictures" / "cameras_0.jpg").write_bytes(SHOT)
    return folder


def test_every_peer_is_a_column_and_the_mean_comes_last(study: Path) -> None:
    table = by_peer(read(study))
    assert table.head[1] == "cameras/0"
    means = [100 * fmean(figure(seed, i, "map50") for seed in SEEDS) for i in range(12)]
    assert rows(table)["Isolated"] == [f"{mean:.1f}" for mean in [*means, fmean(means)]]


def test_four_figures_in_the_mean_and_of_every_peer(study: Path) -> None:
    results = read(study)
    wanted = [
        f"{100 * fmean(figure(seed, i, kind) for seed in SEEDS for i in range(12)):.1f}"
        for kind in ("precision", "recall", "map50", "map")
    ]
    assert rows(overall(results))["Isolated"] == wanted
    assert "0.5, at an IoU of 0.5" in overall(results).note
    assert len(every(results).rows) == 2 * 12


def test_the_small_table_names_the_metric_and_knows_no_accuracy(study: Path) -> None:
    rows = {row["method"]: row for row in summary(read(study))}
    mean = fmean(figure(seed, i, "map50") for seed in SEEDS for i in range(12))
    assert rows["isolated"]["map50"] == pytest.approx(mean, abs=1e-4)
    assert not rows["isolated"].keys() & {"shared", "private"}


def test_a_student_is_listed_once(study: Path) -> None:
    assert [list(row) for row in cost(read(study)).rows] == [
        ["cameras", "Isolated", "1,000", "7.2", "2.5"],
        ["phones", "Isolated", "77", "7.2", "2.5"],
        ["cameras", "Distillation through a hub", "2,000", "7.2", "2.5"],
    ]


def test_pictures_stand_where_they_are(study: Path) -> None:
    gallery = pictures(read(study))
    assert list(gallery.head) == ["Isolated"]
    assert dict(gallery.rows)["cameras/0"] == [SHOT]
    assert dict(gallery.rows)["cameras/1"] == [b""]


@pytest.mark.usefixtures("unrendered")
def test_the_page_says_map50_and_not_accuracy(study: Path) -> None:
    text = report(study).read_text()
    for draw in (headline, rounds):
        assert "mAP50" in draw(read(study)).axes[0].get_ylabel()
    assert "mAP50" in lead(read(study))[0]
    assert order(read(study)).head[2] == "mAP50 %"
    assert text.count("data:image/jpeg;base64,") == 1
    for title in ("Peer by peer", "What a frame costs", "What they see"):
        assert f"<h2>{title}</h2>" in text
    assert "accuracy" not in text.lower().replace("model accuracy", "")
    assert "Private and shared" not in text


@pytest.mark.usefixtures("unrendered")
def test_classifiers_have_none_of_it(write: Callable[..., Path]) -> None:
    folder = write(["isolated", "distillation"], (0,))
    text = report(folder).read_text()
    for draw in (headline, rounds):
        assert "shared" in draw(read(folder)).axes[0].get_ylabel()
    assert "mAP50" not in text
    assert "What they see" not in text
