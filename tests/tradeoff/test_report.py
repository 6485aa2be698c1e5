"""The report says what the numbers say, escapes what it is given, and needs nothing but itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from mmkd.tradeoff.report.classification import by_modality
from mmkd.tradeoff.report.page import Section, Swatch, Table, page, plain
from mmkd.tradeoff.report.report import report
from mmkd.tradeoff.report.tables import budgets, order, settings, students
from mmkd.tradeoff.report.words import lead, verdict
from mmkd.tradeoff.report.writing import percent, points, si
from mmkd.tradeoff.results import read
from mmkd.types import ConfigError
from tests.tradeoff.conftest import PEERS, ROUNDS, accuracy

Write = Callable[..., Path]
NASTY = '<script>alert("1")</script> & <b> $x_1^$ -->'


def cells(table: Table) -> dict[str, list[str]]:
    """The rows by their first cell."""
    words = [[cell.text if isinstance(cell, Swatch) else cell for cell in row] for row in table.rows]
    return {row[0]: row[1:] for row in words}


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (7, "7 B"), (999, "999 B"), (999.6, "1.00 kB"), (1234, "1.23 kB"), (12345, "12.3 kB"),
     (160_000, "160 kB"), (999_499, "999 kB"), (999_500, "1.00 MB"), (9_996, "10.0 kB"), (2.5e18, "2500 PB")],
)  # fmt: skip
def test_bytes_have_three_digits(value: float, text: str) -> None:
    assert si(value, "B") == text


def test_points_have_signs() -> None:
    assert (percent(0.8125), points(0.021), points(-0.021)) == ("81.2", "+2.1", "\u22122.1")


# --- words -----------------------------------------------------------------------------------------


def test_the_headline_where_distillation_wins(write: Write) -> None:
    # Shared accuracies of seeds 0, 1, 2: FedAvg .74 .75 .76; hub .772 .777 .792, so +3.2, +2.7, +3.2.
    said = verdict(read(write()))
    assert "reaches 78.0 % mean shared test accuracy for 160 kB per peer, 1/19 of FedAvg's" in said
    assert "reaches 75.0 % for 3.00 MB" in said
    assert (
        "3.0 points better on average over 3 seeds, with the same sign in all of them: from +2.7 to +3.2"
        in said
    )
    assert "Distillation through a hub, best of 2 distillation methods on validation" in said


def test_the_first_sentence_names_the_winner_and_its_score(write: Write) -> None:
    # The hub's .772 .777 .792 are 78.0 on average; what shared accuracy is stands beside its first use.
    said = lead(read(write(["isolated", "distillation", "fedavg"])))[0]
    assert said == (
        "Distillation through a hub comes first of 3 methods: 78.0 % mean shared test accuracy for 160 kB per peer"
        " (test accuracy, averaged over peers, as if all classes were equally frequent)."
    )


def test_the_headline_where_the_sign_changes(write: Write) -> None:
    # Ring .73 .76 .75: -1, +1, -1 points, mean -1/3.
    said = verdict(read(write(["isolated", "ring", "fedavg"])))
    assert "No clear difference: \u22120.3 points on average over 3 seeds, from \u22121.0 to +1.0" in said


def test_the_headline_where_distillation_loses_and_buys_nothing(write: Write) -> None:
    folder = write(["isolated", "distillation", "fedavg"])
    for path in folder.glob("runs/distillation/*/result.json"):
        edit(path, lambda r: [row.update(shared_accuracy=0.6) for row in r["test"].values()])
    # FedAvg .74 .75 .76 against .60: -14, -15, -16.
    said = lead(read(folder))
    assert (
        "15.0 points worse on average over 3 seeds, with the same sign in all of them: from \u221216.0"
        in said[1]
    )
    assert said[2].endswith("the bytes of Distillation through a hub bought nothing beyond that.")


@pytest.mark.parametrize(
    ("methods", "lacking"),
    [
        (["isolated", "ring"], "FedAvg"),
        (["fedavg"], "a method that distils"),
        (["pooled"], "FedAvg and of a"),
    ],
)
def test_without_both_the_question_stays_open(write: Write, methods: list[str], lacking: str) -> None:
    said = verdict(read(write(methods)))
    assert "stays open" in said
    assert f"no finished run of {lacking}" in said


def test_fedavg_is_its_best_variant_on_validation(write: Write) -> None:
    results = read(write(["distillation", "fedavg"]))
    fedavg = next(method for method in results.methods if method.name == "fedavg")
    # Worse on test samples, but better on those that are there to choose by.
    runs = [
        replace(
            run,
            test={name: kinds | {"shared_accuracy": 0.7} for name, kinds in run.test.items()},
            curve=[point._replace(score=0.99) for point in run.curve],
        )
        for run in fedavg.runs
    ]
    other = replace(fedavg, name="fedavg_keep", label="FedAvg that keeps", runs=runs)
    both = replace(results, methods=[*results.methods, other])
    assert both.baseline is other
    said = verdict(both)
    assert "FedAvg that keeps, best of 2 FedAvg methods on validation, reaches 70.0 %" in said


def test_one_seed_makes_no_claim(write: Write) -> None:
    results = read(write(seeds=(0,)))
    assert "One seed makes a picture, not a claim." in lead(results)
    assert "In the one seed they share, distillation is 3.2 points better." in verdict(results)
    assert not any("\u00b1" in cell for row in cells(order(results)).values() for cell in row)


def test_ten_seeds_are_judged_by_a_t_interval(write: Write) -> None:
    # Nine differences of -1 point and one of +1: mean -0.8, variance 0.4; 2.262157 sqrt(0.4 / 10) = 0.452.
    results = read(write(["ring", "fedavg"], seeds=tuple(range(10))))
    assert verdict(results).endswith(
        "0.8 points worse on average over 10 seeds, 95 % interval from \u22121.3 to \u22120.3."
    )
    assert cells(order(results))["Distillation on a ring"][-1] == "\u22120.8 [\u22121.3, \u22120.3]"


def test_who_sends_nothing_has_wasted_no_bytes(write: Write) -> None:
    folder = write(["isolated", "distillation", "fedavg"])
    edit(folder / "study.json", lambda s: s["methods"]["distillation"].update(family="none"))
    for path in folder.glob("runs/distillation/*/result.json"):
        edit(path, lambda r: [row.update(shared_accuracy=0.6) for row in r["test"].values()])
    said = lead(read(folder))
    assert "(Isolated) reach 62.0 %." in said[2]
    assert "bought nothing" not in said[2]


@pytest.mark.parametrize(("count", "said"), [(3, "Three seeds make"), (9, "Nine seeds make"), (10, None)])
def test_few_seeds_are_called_few(write: Write, count: int, said: str | None) -> None:
    text = " ".join(lead(read(write(["fedavg", "ring"], seeds=tuple(range(count))))))
    assert (said in text) if said else ("a picture, not a claim" not in text)


# --- tables ----------------------------------------------------------------------------------------


def test_the_order_of_methods(write: Write) -> None:
    rows = cells(order(read(write())))
    assert [name.split()[0] for name in rows] == [
        "Weights",
        "Distillation",
        "FedAvg",
        "Distillation",
        "Isolated",
        "Pooled,",
    ]
    # FedAvg: seeds .74 .75 .76 (std .01); the worst peer lies 5.5 x .002 below the mean.
    assert rows["FedAvg within modality"] == ["3", "75.0 \u00b1 1.0", "73.9", "3.00 MB", "1.20 T", "62", ""]
    assert rows["Distillation through a hub"][-1] == "+3.0 [+2.7, +3.2]"


def test_modalities_and_references(write: Write) -> None:
    rows = cells(by_modality(read(write())))
    # Cameras are peers 0..3: their mean lies (1.5 - 5.5) x .002 from the mean, the worst at -5.5 x .002.
    assert rows["FedAvg within modality"][:2] == ["74.2 \u00b1 1.0", "73.9"]
    assert rows["Pooled, no privacy"][0] == "92.2 \u00b1 1.0"
    assert rows["nearest neighbour (pooled)"][:2] == ["97.0 \u00b1 1.0", "\u2013"]  # .96 .97 .98


def test_budgets_are_parts_of_the_bytes_of_fedavg(write: Write) -> None:
    results = read(write())
    assert results.baseline is not None
    rows = {(row[0].text, row[1]): row[2:] for row in budgets(results, results.baseline).rows}
    # A tenth of 3 MB buys the whole run; a hundredth is 30 kB, and 160 kB / 20 rounds = 8 kB a round,
    # so the third round's evaluation is the last one within it, 3/20 of the way up from 0.3.
    hub = [0.3 + (final - 0.3) * 3 / 20 for final in (0.772, 0.777, 0.792)]
    gaps = [own - fedavg for own, fedavg in zip(hub, (0.74, 0.75, 0.76), strict=True)]
    _, spent, gap, whole = rows["Distillation through a hub", "1/100: 30.0 kB"]
    assert rows["Distillation through a hub", "1/100: 30.0 kB"][0].startswith(percent(fmean(hub)))
    assert (spent, whole) == ("24.0 kB", "costs 160 kB")
    assert gap == f"{points(fmean(gaps))} [{points(min(gaps))}, {points(max(gaps))}]"
    assert rows["Distillation through a hub", "1/10: 300 kB"][1::2] == ["160 kB", "78.0 \u00b1 1.0"]
    assert rows["Distillation on a ring", "1/100: 30.0 kB"][1] == "18.0 kB"
    assert rows["FedAvg within modality", "all of FedAvg's: 3.00 MB"][0] == "75.0 \u00b1 1.0"


def test_a_budget_below_the_first_evaluation(write: Write) -> None:
    folder = write(["distillation", "fedavg"])
    for path in folder.glob("runs/distillation/*/curve.csv"):
        head, *rows = path.read_text().splitlines()
        path.write_text(
            "\n".join([head, *rows[-24:]])
        )  # only the last round was evaluated (12 peers, twice): 160 kB
    results = read(folder)
    assert results.baseline is not None
    assert "no evaluation so early" in [row[2] for row in budgets(results, results.baseline).rows]


def test_students_and_settings(write: Write) -> None:
    folder = write(["isolated", "fedavg"])
    assert list(students(read(folder)).rows[0]) == ["image", "VisionStudent", "all", "44,170", "4"]
    for path in folder.glob("runs/fedavg/*/result.json"):
        edit(path, lambda r: [peer.update(parameters=9) for peer in r["peers"].values()])
    rows = [list(row) for row in students(read(folder)).rows]
    assert [
        "image",
        "VisionStudent",
        "FedAvg within modality",
        "9",
        "4",
    ] in rows  # an unfair comparison shows
    common, differ = settings(read(folder))
    assert [list(row) for row in common.rows] == [["model.vectorize", "always"]]
    assert ["Isolated", "decentralized.topology.class_path", "Isolated"] in [list(row) for row in differ.rows]


# --- the page --------------------------------------------------------------------------------------


class Check(HTMLParser):
    """Collects what a browser would fetch or run, ids, and whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [tag] if tag in ("script", "link", "img", "iframe", "image", "object") else []
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            if name in ("href", "src", "srcset", "xlink:href") and not (value or "").startswith("#"):
                self.fetched.append(f"{name}={value}")
            assert not name.startswith("on")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> Check:
    check = Check()
    check.feed(text)
    assert check.open == []
    return check


def test_the_page(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Strings are escaped, nothing is fetched, references resolve, missing runs are listed, all fits."""
    folder = write(title=NASTY, tuning=NASTY, notes=[NASTY], command=NASTY, versions={NASTY: "1"})
    edit(folder / "study.json", lambda study: study["methods"]["ring"].update(label=NASTY, description=NASTY))
    (folder / "runs/hybrid/seed1/result.json").unlink()
    for file in (folder / "runs/hybrid/seed2").iterdir():
        file.unlink()
    (folder / "runs/hybrid/seed2").rmdir()
    path = report(folder)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    check = checked(text)
    assert check.fetched == []
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "<script" not in text
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &lt;b&gt; $x_1^$ --&gt;" in text
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    assert used <= set(check.ids)
    assert len(check.ids) == len(set(check.ids))
    assert text.count('role="img" aria-label="') == text.count("<svg ") == 7
    assert "Weights within, knowledge across modalities, seed 1: unfinished" in text
    assert "Weights within, knowledge across modalities, seed 2: not started" in text
    assert "2 runs have no result and are left out" in text
    assert "Three seeds make a picture, not a claim." in text
    assert len([*(folder / "figures").glob("*.png")]) == 7
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert max(map(len, table)) <= 100
    # Long labels take several lines, and every word of them is there.
    begun = [line for line in table[2:] if re.search(r"\d  ", line)]
    assert len(begun) == 6
    assert {"knowledge", "across", "modalities"} <= set(" ".join(table).split())


def test_how_fleets_train_is_told_where_it_was_chosen(write: Write) -> None:
    folder = write(["fedavg", "ring"])
    assert "trained (auto)" not in report(folder).read_text(encoding="utf-8")
    way = {"cameras": {"vectorized": False, "reason": "9.5 million operations"}}
    for path in folder.glob("runs/*/*/result.json"):
        edit(path, lambda r: r.update(vectorized=way))
    assert "cameras one after the other: 9.5 million operations<" in report(folder).read_text(
        encoding="utf-8"
    )


@pytest.mark.usefixtures("unrendered")
def test_a_page_is_the_same_every_time(write: Write) -> None:
    folder = write()
    first, second = ((report(folder).read_bytes(), (folder / "summary.csv").read_bytes()) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("methods", [["isolated"], ["pooled"]])
def test_a_study_that_has_hardly_begun_is_drawn(write: Write, methods: list[str]) -> None:
    text = report(write(methods, seeds=(0,))).read_text(encoding="utf-8")
    checked(text)
    assert "stays open" in text


@pytest.mark.usefixtures("unrendered")
def test_without_an_evaluation_while_training_there_is_no_figure_of_rounds(write: Write) -> None:
    folder = write(["isolated", "fedavg"], seeds=(0,))
    curves = sorted(folder.glob("runs/*/seed0/curve.csv"))
    for left, curve in zip((1, 0), curves, strict=True):  # first of isolated's alone, then of neither
        curve.write_text(curve.read_text().splitlines(keepends=True)[0])
        text = report(folder).read_text(encoding="utf-8")
        checked(text)
        assert text.count("<h2>Round by round</h2>") == left


def test_blocks_are_escaped_and_numbers_aligned() -> None:
    table = Table(["<a>", "n"], [[Swatch("<b>", "#000000", filled=True), "1.0"], ["a long name", "10.0"]])
    text = page("t", [], [Section("<s>", [table, ["<i>"]])])
    checked(text)
    assert not re.search(r"<(a|b|s)>", text)
    assert "<li>&lt;i&gt;</li>" in text
    assert plain(table, width=12).splitlines() == [
        "<a>        n",
        "-" * 12,
        "<b>      1.0",
        "a long  10.0",
        "name",
    ]


# --- what cannot be read ---------------------------------------------------------------------------


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no study"):
        report(tmp_path)


def test_a_study_without_a_finished_run(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"no run of the study in .* is finished"):
        report(write([]))


RESULT = "runs/fedavg/seed1/result.json"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.pop("ledger"), "ledger"),
        (lambda r: r["test"]["phones/3"].pop("shared_accuracy"), "shared_accuracy"),
        (lambda r: r["test"].clear(), "of no peer"),
        (lambda r: r["test"].update({"phones/9": r["test"]["phones/3"]}), "of strangers"),
        (lambda r: r["test"]["phones/3"].update(shared_accuracy=float("nan")), "not finite"),
        (lambda r: r["ledger"].update(bytes_per_peer=5), "add up to 3000000"),
        (lambda r: r["topology"]["edges"].append(["cameras/0", "cameras/9"]), "neither a peer nor the hub"),
        (lambda r: r["peers"].clear(), "no peers"),
        (lambda r: r.pop("metric"), "an older mmkd wrote it, which did not say by which metric"),
        (lambda r: r.update(metric="loss"), "KeyError: 'loss'"),
        (lambda r: r.update(metric="map50"), "KeyError: 'map50'"),
    ],
)
def test_a_broken_result_is_named(write: Write, change: Callable[[Any], Any], reason: str) -> None:
    folder = write(["fedavg"])
    edit(folder / RESULT, change)
    with pytest.raises(ConfigError, match=reason) as caught:
        read(folder)
    assert RESULT in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_that_are_compared_by_different_metrics_share_no_report(write: Write) -> None:
    folder = write(["fedavg"])

    def detect(result: Any) -> None:
        result.update(metric="map50", test={name: {"map50": 0.5} for name in result["test"]})

    edit(folder / RESULT, detect)
    curve = folder / RESULT.replace("result.json", "curve.csv")
    curve.write_text(curve.read_text().replace("shared_accuracy", "map50"))
    with pytest.raises(ConfigError, match="compared by map50 or by shared_accuracy, not by one metric"):
        read(folder)


@pytest.mark.parametrize(
    "name", [RESULT, "runs/fedavg/seed1/curve.csv", "study.json", "references/seed1.json"]
)
def test_a_file_that_is_cut_off_is_named(write: Write, name: str) -> None:
    folder = write(["fedavg"])
    text = (folder / name).read_text()
    (folder / name).write_text(text[: len(text) // 2])
    with pytest.raises(ConfigError) as caught:
        read(folder)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_peers_that_sat_out_or_have_no_samples_are_left_out_and_the_former_are_named(write: Write) -> None:
    """Of twelve peers the first diverges in round 11, and the last has neither validation nor test samples."""
    folder = write(["fedavg"], seeds=(0,))
    run, (gone, *_, none) = folder / "runs/fedavg/seed0", PEERS
    saved = json.loads((run / "result.json").read_text())
    saved["absent"] = {gone: {"round": 11, "reason": "its private loss is nan"}}
    for name in (gone, none):
        del saved["test"][name]
    (run / "result.json").write_text(json.dumps(saved))
    kept = [
        row
        for row in (run / "curve.csv").read_text().splitlines()
        if f",{none}," not in row and (gone not in row or int(row.split(",")[0]) <= 10)
    ]
    (run / "curve.csv").write_text("\n".join(kept) + "\n")
    found = read(folder)
    [only] = found.methods[0].runs
    assert only.score == pytest.approx(fmean(accuracy("fedavg", 0, i) for i in range(1, 11)), abs=1e-12)
    by_round = {10: range(11), 11: range(1, 11)}
    for point in (only.curve[9], only.curve[10]):
        reached = (
            0.3 + (accuracy("fedavg", 0, i) - 0.3) * point.round / ROUNDS for i in by_round[point.round]
        )
        assert point.score == pytest.approx(fmean(reached), abs=1e-12)
    assert found.sat_out == [
        f"FedAvg within modality, seed 0: {gone} sat out from round 11 on: its private loss is nan"
    ]
    text = report(folder).read_text()
    assert "Who sat out" in text
    assert "means are over the others" in text
    back = next(row for row in kept if gone in row).replace("1,25", f"{ROUNDS},{25 * ROUNDS}", 1)
    (run / "curve.csv").write_text("\n".join([*kept, back]) + "\n")
    with pytest.raises(ConfigError, match="who may only leave"):
        read(folder)


def test_a_missing_curve_is_named(write: Write) -> None:
    folder = write(["fedavg"])
    (folder / "runs/fedavg/seed1/curve.csv").unlink()
    with pytest.raises(ConfigError, match=r"seed1/curve\.csv"):
        read(folder)
