"""Two studies side by side: one page with both tables, both fronts and what differs between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkd.files import replacing
from mmkd.tradeoff.pareto import CLAIM, Spread, paired, spread
from mmkd.tradeoff.report.figures.fronts import Pair, fronts
from mmkd.tradeoff.report.figures.style import save
from mmkd.tradeoff.report.page import Block, Cell, Details, Picture, Section, Table, page, plain
from mmkd.tradeoff.report.tables import order
from mmkd.tradeoff.report.writing import difference, listed, plus_minus, si
from mmkd.tradeoff.results import Method, read
from mmkd.types import ConfigError

NONE = "\u2013"
"""What stands in a cell about which a study says nothing."""


def compare(first: Path, second: Path) -> Path:
    """Write a page about two studies, A and B, into the folder of the first, and print their table.

    The page is ``versus_<folder of B>.html``; its figure is in ``figures/`` beside it.

    Raises:
        ConfigError: a folder holds no study or no finished run, a file in it is broken, or the two are
            compared by different metrics.
    """
    pair = read(first), read(second)
    if pair[0].metric != pair[1].metric:
        one, other = (study.metric.head for study in pair)
        raise ConfigError(f"{first} is compared by {one} and {second} by {other}, so the two have no order")
    (first / "figures").mkdir(exist_ok=True)
    places = first, second
    said, table = [*introduction(pair, places), *findings(pair)], side_by_side(pair)
    text = page(f"{_title(pair, 0)} and {_title(pair, 1)}", said, sections(pair, table, first / "figures"))
    path = first / f"versus_{second.resolve().name}.html"
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    print(f"\n{plain(table, width=100)}\n")
    print("\n".join(said))
    return path


def sections(pair: Pair, table: Table, folder: Path) -> list[Section]:
    """The body of the page; its figure is also written into ``folder``."""
    out = [Section("Method by method", [table])]
    if any(study.compared for study in pair):
        picture = Picture(
            save(fronts, pair, folder),
            f"Mean {pair[0].metric.on('test')} against bytes per peer in both studies.",
            "Means over seeds; a thin line joins a method of A with the same one of B.",
        )
        out.append(Section("What a byte buys in each", [picture]))
    blocks: list[Block] = [Table(["", "A", "B"], around(pair), words=3)]
    found = settings(pair)
    if found:
        blocks.append(Table(["Setting", "Methods", "A", "B"], found, words=4))
    else:
        blocks.append(
            "Methods of the same name have the same settings, as far as these differ from defaults."
        )
    out.append(Section("What differs", blocks))
    out.append(
        Section(
            "Each by itself",
            [Details(f"{name}: {_title(pair, i)}", [order(pair[i])]) for i, name in enumerate("AB")],
        )
    )
    return out


def introduction(pair: Pair, places: tuple[Path, Path]) -> list[str]:
    """Sentences that say which studies these are, and which methods only one of them has."""
    said = [
        f"{name} is \u201c{_title(pair, i)}\u201d, {_counted(pair, i)} in {places[i]}."
        for i, name in enumerate("AB")
    ]
    names = [{method.name for method in study.methods} for study in pair]
    for i, name in enumerate("AB"):
        only = [method.label for method in pair[i].methods if method.name not in names[1 - i]]
        if only:
            said.append(f"Only {name} has {listed(only)}.")
    return said


def findings(pair: Pair) -> list[str]:
    """A sentence on the methods that are better or worse in B than in A."""
    gaps = {one.label: gap for one, other in _both(pair) if (gap := _gap(one, other)) is not None}
    several = {label: gap for label, gap in gaps.items() if gap.count > 1}
    if not several:
        return ["No method has two seeds in both studies, so no difference has an interval."]
    clear = [label for label, gap in several.items() if gap.interval()[0] > 0 or gap.interval()[1] < 0]
    if not clear:
        return [f"Of {len(several)} methods in both studies none differs clearly: all intervals contain 0."]
    words = listed([f"{label} ({difference(several[label])})" for label in clear])
    return [f"From A to B these change clearly, in percentage points: {words}."]


def side_by_side(pair: Pair) -> Table:
    """Every method of either study, those of the same name in one row; best in A first."""
    found = {method.name: method for method in [*pair[1].ranked, *pair[1].ceilings]}
    score = f"{pair[0].metric.head} %"
    rows: list[list[Cell]] = []
    for one in [*pair[0].ranked, *pair[0].ceilings]:
        rows.append(_row(one, found.pop(one.name, None)))
    rows += [_row(None, other) for other in found.values()]
    note = (
        f"{pair[0].metric.head}: {pair[0].metric.meaning}; mean \u00b1 standard deviation over seeds."
        " B \u2212 A: percentage points, paired by seed; the mean, and in brackets the range over shared"
        f" seeds or, from {CLAIM} of them on, the 95 % t interval of the mean. Bytes are those of a"
        " peer. A seed draws the same split in both only where the settings of the data are the same."
    )
    head = ["Method", f"A: {score}", f"B: {score}", "B \u2212 A", "A: bytes", "B: bytes", "Seeds"]
    return Table(head, rows, note=note)


def around(pair: Pair) -> list[list[Cell]]:
    """What the studies say about themselves as a whole, where they do not say the same."""
    facts = [_facts(study.study) for study in pair]
    rows: list[list[Cell]] = [["command", *(study.study["command"] for study in pair)]]
    for name in dict.fromkeys([*facts[0], *facts[1]]):
        values = [found.get(name, NONE) for found in facts]
        if values[0] != values[1]:
            rows.append([name, *values])
    return rows


def settings(pair: Pair) -> list[list[Cell]]:
    """Settings in which methods of the same name differ, and which methods do; of the first run of each."""
    both = _both(pair)
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for one, other in both:
        ours, theirs = one.runs[0].settings, other.runs[0].settings
        for key in dict.fromkeys([*ours, *theirs]):
            if ours.get(key) != theirs.get(key):
                here, there = (str(shown.get(key, "its default")) for shown in (ours, theirs))
                found[key, here, there].append(one.label)
    return [
        [key, "all in both" if len(labels) == len(both) > 1 else listed(labels), ours, theirs]
        for (key, ours, theirs), labels in found.items()
    ]


def _both(pair: Pair) -> list[tuple[Method, Method]]:
    others = {method.name: method for method in pair[1].methods}
    return [(method, others[method.name]) for method in pair[0].methods if method.name in others]


def _gap(one: Method, other: Method) -> Spread | None:
    """The difference B - A over the seeds that both have."""
    return paired(other.by_seed("score"), one.by_seed("score"))


def _row(one: Method | None, other: Method | None) -> list[Cell]:
    labels = dict.fromkeys(method.label for method in (one, other) if method is not None)
    scores = [NONE if m is None else plus_minus(spread(m.by_seed("score").values())) for m in (one, other)]
    costs = [NONE if m is None or m.family == "ceiling" else si(m.mean("bytes"), "B") for m in (one, other)]
    counts = [str(len(m.runs)) if m is not None else NONE for m in (one, other)]
    gap = difference(_gap(one, other)) if one is not None and other is not None else NONE
    return [" / ".join(labels), *scores, gap, *costs, ", ".join(counts)]


def _facts(study: Mapping[str, Any]) -> dict[str, str]:
    """Versions, machine and words of a study, by name."""
    versions = {f"version of {name}": str(number) for name, number in study["versions"].items()}
    machine = {
        f"machine: {name}": "none" if value is None else str(value)
        for name, value in study["machine"].items()
    }
    return {
        "seeds": ", ".join(map(str, study["seeds"])),
        "settings of all runs": " ".join(map(str, study.get("settings", ()))) or "none",
        **machine,
        **versions,
        "tuning": study["tuning"] or NONE,
        "notes": " ".join(study["notes"]) if study["notes"] else NONE,
    }


def _title(pair: Pair, which: int) -> str:
    return str(pair[which].study["title"])


def _counted(pair: Pair, which: int) -> str:
    runs = sum(len(method.runs) for method in pair[which].methods)
    return f"{len(pair[which].methods)} methods and {runs} run{'' if runs == 1 else 's'}"
