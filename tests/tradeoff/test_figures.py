"""A method can be told from every other in a figure, however many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure

from mmkd.tradeoff.report.appearance import appearances
from mmkd.tradeoff.report.figures.peers import topologies
from mmkd.tradeoff.report.figures.scores import headline, rounds, spending
from mmkd.tradeoff.report.figures.style import save
from mmkd.tradeoff.results import read
from tests.tradeoff.conftest import ROUNDS

Write = Callable[..., Path]


def names(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("families", [["knowledge"] * 12, ["knowledge", "weights", "both"] * 12])
def test_no_two_methods_look_alike(families: list[str]) -> None:
    study: Any = SimpleNamespace(
        study={"methods": {f"m{i}": {"family": family} for i, family in enumerate(families)}}
    )
    for a, b in combinations(appearances(study).values(), 2):
        assert a != b


def test_a_figure_is_the_same_every_time(write: Write, tmp_path: Path) -> None:
    results = read(write())
    first, second = (
        (save(headline, results, tmp_path), (tmp_path / "headline.png").read_bytes()) for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("draw", [rounds, spending])
def test_a_curve_is_a_line(draw: Callable[[Any], Figure], write: Write) -> None:
    """Through all evaluations of every method, and its marker at the end alone."""
    results = read(write())
    shown = results.methods if draw is rounds else results.compared
    curves = [line for line in draw(results).axes[0].lines if len(line.get_xdata()) == ROUNDS]
    assert len(curves) == len(shown)
    assert all(line.get_linestyle() not in ("None", "none", "") for line in curves)
    assert {line.get_color() for line in curves} <= {a.colour for a in appearances(results).values()}


def test_a_ceiling_is_named_on_its_line_unless_names_would_overprint(write: Write) -> None:
    folder = write()
    alone = read(folder)
    assert [method.label for method in alone.ceilings] == [
        text.get_text() for text in headline(alone).axes[0].texts if "//" not in text.get_text()
    ]
    crowded = replace(alone, methods=[*alone.methods, *alone.ceilings])
    drawn = headline(crowded)
    assert not [text for text in drawn.axes[0].texts if "//" not in text.get_text()]
    label = alone.ceilings[0].label
    height = 100 * alone.ceilings[0].mean("score")
    assert names(drawn).count(f"{height:.1f} %: {label}") == 2


def test_a_graph_that_many_share_names_a_few(write: Write) -> None:
    results = read(write())
    method = next(m for m in results.compared if m.name == "fedavg")
    many = replace(results, methods=[replace(method, label=f"FedAvg {i}") for i in range(9)])
    assert topologies(many).axes[0].get_title().split("\n")[1:] == [
        "FedAvg 0", "FedAvg 1", "FedAvg 2", "and 6 more"
    ]  # fmt: skip
