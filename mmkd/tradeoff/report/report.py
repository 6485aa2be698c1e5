"""The report of a study: what the numbers say, in words, tables and figures; reads, never trains."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from mmkd.ledger import FRAMING
from mmkd.tradeoff.pareto import CLAIM, Deal, Spread, best_within, paired, spread
from mmkd.tradeoff.report import detection, figures, summary
from mmkd.tradeoff.report.page import (
    Block,
    Cell,
    Details,
    Picture,
    Section,
    Table,
    page,
    percent,
    plain,
    points,
    si,
)
from mmkd.tradeoff.results import Method, Results, read

FRACTIONS = (10, 100)
"""The parts of FedAvg's bytes that are budgets: a tenth and a hundredth."""
NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
"""Numbers in words, from zero on, to begin a sentence with."""


def report(folder: Path) -> Path:
    """Draw ``report.html``, ``figures/`` and ``summary.csv`` into a folder, and print the order of methods.

    Raises:
        ConfigError: the folder holds no study or no finished run, or a file in it is broken.
    """
    results = read(folder)
    (folder / "figures").mkdir(exist_ok=True)
    text = page(results.study["title"], lead(results), sections(results, folder / "figures"))
    path = folder / "report.html"
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    summary.write(results, folder / "summary.csv")
    print(f"\n{results.study['title']}\n\n{plain(order(results), width=100)}\n")
    print(
        "\n".join(
            [*lead(results), *([f"Without a result: {len(results.missing)}"] if results.missing else [])]
        )
    )
    return path


# --- words -----------------------------------------------------------------------------------------


def lead(results: Results) -> list[str]:
    """What the study says, how sure it can be, and what is missing."""
    sentences = [verdict(results)]
    alone = _first(results, "none")
    if alone is not None:
        words = f"Peers that exchange nothing ({alone.label}) reach {percent(alone.mean('shared'))} %."
        worse = [
            m.label
            for m in results.compared
            if m.family != "none" and m.mean("shared") <= alone.mean("shared")
        ]
        if worse:
            words += f" On average, the bytes of {_listed(worse)} bought nothing beyond that."
        sentences.append(words)
    count = max(len(method.runs) for method in results.methods)
    if count < CLAIM:
        one = count == 1
        sentences.append(
            f"{NUMBERS[count]} seed{'' if one else 's'} make{'s' if one else ''} a picture, not a claim."
        )
    if results.missing:
        number = len(results.missing)
        sentences.append(
            f"{number} run{' has' if number == 1 else 's have'} no result and"
            f" {'is' if number == 1 else 'are'} left out; the end of this page lists what is missing."
        )
    return sentences


def verdict(results: Results) -> str:
    """Distillation against FedAvg, in a sentence or two that the numbers carry."""
    fedavg, taught = results.baseline, [m for m in results.compared if m.family == "knowledge"]
    if fedavg is None or not taught:
        best = max(results.compared or results.methods, key=_shared)
        lacking = [w for w, there in (("FedAvg", fedavg), ("a method that distils", taught)) if not there]
        return (
            f"Whether distillation or federated averaging is the better deal stays open: no finished run of"
            f" {' and of '.join(lacking)}. Of what is here, {best.label} comes first with"
            f" {percent(best.mean('shared'))} % {results.score('test')}."
        )
    # Chosen on validation, both, so that the test accuracy of the chosen is not the luckiest of many.
    chosen = max(taught, key=lambda method: method.validated)
    which, whose = (
        "" if count == 1 else f", best of {count} {kind} methods on validation,"
        for count, kind in ((len(taught), "distillation"), (len(results.averaging), "FedAvg"))
    )
    cost, full = chosen.mean("bytes"), fedavg.mean("bytes")
    start = (
        f"{chosen.label}{which} reaches {percent(chosen.mean('shared'))} % {results.score('test')} for"
        f" {si(cost, 'B')} per peer{_price(cost, full)}; {fedavg.label}{whose} reaches"
        f" {percent(fedavg.mean('shared'))} % for {si(full, 'B')}."
    )
    gap = paired(chosen.by_seed("shared"), fedavg.by_seed("shared"))
    if gap is None:
        return f"{start} The two share no seed, so no difference is given."
    size = f"{percent(abs(gap.mean))} points {'better' if gap.mean > 0 else 'worse'}"
    size = "level with FedAvg" if percent(abs(gap.mean)) == "0.0" else size
    low, high = gap.interval()
    span = f"from {points(low)} to {points(high)}"
    if gap.count == 1:
        return f"{start} In the one seed they share, distillation is {size}."
    seeds = f"on average over {gap.count} seeds"
    claimed = gap.count >= CLAIM
    if low > 0 or high < 0:
        sure = f"95 % interval {span}" if claimed else f"with the same sign in all of them: {span}"
        return f"{start} Distillation is {size} {seeds}, {sure}."
    sure = f"95 % interval {span}" if claimed else f"{span}, without one sign for all"
    return f"{start} No clear difference: {points(gap.mean)} points {seeds}, {sure}."


# --- tables ----------------------------------------------------------------------------------------


def order(results: Results) -> Table:
    """The methods, best first; ceilings last."""
    look, baseline = figures.looks(results), results.baseline
    shared = "mAP50 %" if results.detects else "Shared %"
    head = ["Method", "Seeds", shared, "Worst %", "Bytes", "FLOPs", "Seconds", "vs FedAvg"]
    rows: list[list[Cell]] = []
    for method in [*sorted(results.compared, key=_shared, reverse=True), *results.ceilings]:
        rows.append(
            [
                figures.swatch(method, look[method.name]),
                str(len(method.runs)),
                _pm(spread(method.by_seed("shared").values())),
                percent(method.mean("worst")),
                "\u2013" if method.family == "ceiling" else si(method.mean("bytes"), "B"),
                si(method.mean("flops"), "FLOP").removesuffix("FLOP").strip(),
                f"{method.mean('seconds'):.0f}",
                _against(method, baseline),
            ]
        )
    note = (
        f"{shared.removesuffix(' %')}: {_scored(results)}; then mean \u00b1 standard deviation over seeds."
        " Worst: the worst peer of each run, mean over seeds. Bytes: tensor payload over all directed edges,"
        " divided by the number of peers, as FLOPs are; pooling would send the samples themselves, which is"
        " not counted. Seconds: the whole run. vs FedAvg: percentage points, paired by seed; the mean, and in"
        f" brackets the range over seeds, or from {CLAIM} seeds on the 95 % t interval of the mean."
    )
    return Table(head, rows, note=note)


def by_modality(results: Results) -> Table:
    """Shared accuracy in each modality, with the references that pool."""
    look, kinds = figures.looks(results), results.modalities
    head = ["Method", *(f"{m} {what}" for m in kinds for what in ("%", "worst"))]
    rows: list[list[Cell]] = []
    for method in [*sorted(results.compared, key=_shared, reverse=True), *results.ceilings]:
        row: list[Cell] = [figures.swatch(method, look[method.name])]
        for modality in kinds:
            found = [run.of(modality) for run in method.runs if run.of(modality)]
            row += (
                [_pm(spread(map(fmean, found))), percent(fmean(map(min, found)))]
                if found
                else ["\u2013", "\u2013"]
            )
        rows.append(row)
    for reference, scores in results.references.items():
        cells = [_pm(spread(scores[m])) if scores.get(m) else "\u2013" for m in kinds]
        rows.append(
            [f"{reference.replace('_', ' ')} (pooled)", *(c for cell in cells for c in (cell, "\u2013"))]
        )
    return Table(head, rows)


def budgets(results: Results, baseline: Method) -> Table:
    """What distillation reaches for a tenth and a hundredth of FedAvg's bytes."""
    look, full = figures.looks(results), baseline.mean("bytes")
    everything = _validation_within(baseline, full)
    head = ["Method", "Budget", "Validation %", "Spent by then", "vs FedAvg", "Whole run: test %"]
    none = _first(results, "none")
    cases = [(baseline, full, "all of FedAvg's"), *([(none, 0.0, "nothing")] if none else [])]
    cases += [
        (method, full / fraction, f"1/{fraction}")
        for fraction in FRACTIONS
        for method in results.compared
        if method.family == "knowledge"
    ]
    rows: list[list[Cell]] = []
    for method, budget, words in cases:
        row: list[Cell] = [figures.swatch(method, look[method.name]), f"{words}: {si(budget, 'B')}"]
        found = _validation_within(method, budget)
        best = {seed: deal.gain for seed, deal in found.items()}
        if best:
            partly = "" if len(best) == len(method.runs) else f" ({len(best)} of {len(method.runs)} seeds)"
            gap = paired(best, {seed: deal.gain for seed, deal in everything.items()})
            row += [_pm(spread(best.values())) + partly, si(fmean(deal.cost for deal in found.values()), "B")]
            row.append("" if method is baseline else _difference(gap))
        else:
            row += ["no evaluation so early", "\u2013", "\u2013"]
        whole = _pm(spread(method.by_seed("shared").values()))
        row.append(whole if method.mean("bytes") <= budget else f"costs {si(method.mean('bytes'), 'B')}")
        rows.append(row)
    note = (
        "Validation: the best evaluation of the training curve that had cost at most the budget, which"
        f" flatters every row a little, {baseline.label}'s too. A curve cut short has also trained less:"
        " a finished run within the budget is the fairer reading, and it is scored on test samples."
    )
    return Table(head, rows, words=2, note=note)


def traffic(results: Results) -> Table:
    """Bytes per peer by kind and direction."""
    rows: list[list[Cell]] = []
    for method in results.compared:
        parts: dict[tuple[str, str], float] = defaultdict(float)
        for run in method.runs:
            for part, nbytes in run.by_kind.items():
                parts[part] += nbytes / len(method.runs)
        rows += [[method.label, kind, way, si(n, "B")] for (kind, way), n in sorted(parts.items()) if n]
    return Table(["Method", "Kind", "Direction", "Bytes/peer"], rows, words=3)


def students(results: Results) -> Table:
    """Architectures and their sizes, and which methods train them."""
    found: dict[tuple[str, str, int], list[tuple[Method, int]]] = defaultdict(list)
    for method in results.methods:
        counts: dict[tuple[str, str, int], int] = defaultdict(int)
        for peer in method.runs[0].peers.values():
            counts[peer.modality, peer.architecture, peer.parameters] += 1
        for student, count in counts.items():
            found[student].append((method, count))
    rows: list[list[Cell]] = []
    for (modality, architecture, parameters), users in found.items():
        counted = sorted({count for _, count in users})
        methods = "all" if len(users) == len(results.methods) else _listed([m.label for m, _ in users])
        rows.append([modality, architecture, methods, f"{parameters:,}", " or ".join(map(str, counted))])
    return Table(["Modality", "Architecture", "Methods", "Parameters", "Peers"], rows, words=3)


def settings(results: Results) -> tuple[Table, Table]:
    """Settings that all methods share, and those in which they differ; of each one's first run."""
    each = {method.label: method.runs[0].settings for method in results.methods}
    keys = list(dict.fromkeys(key for shown in each.values() for key in shown))
    values = {key: [shown.get(key) for shown in each.values()] for key in keys}
    same = [key for key in keys if all(value == values[key][0] for value in values[key])]
    common: list[list[Cell]] = [[key, str(values[key][0])] for key in same]
    differ: list[list[Cell]] = [
        [label, key, str(value)]
        for label, shown in each.items()
        for key, value in shown.items()
        if key not in same
    ]
    return Table(["Setting", "Value"], common, words=2), Table(
        ["Method", "Setting", "Value"], differ, words=3
    )


# --- the page --------------------------------------------------------------------------------------


def sections(results: Results, folder: Path) -> list[Section]:
    """The body of the page; its figures are also written into ``folder``."""
    study, baseline = results.study, results.baseline
    ranked = sorted(results.compared, key=_shared, reverse=True)
    told = "; ".join(
        f"{m.label} {percent(m.mean('shared'))} % for {si(m.mean('bytes'), 'B')}" for m in ranked
    )
    peers = len((results.compared or results.methods)[0].runs[0].peers)
    out = []
    if ranked:
        picture = Picture(
            figures.save(figures.headline, results, folder),
            f"{results.score('test').capitalize()} against bytes per peer: {told}.",
            f"Large markers: mean over seeds of the {_scored(results)}. Small markers: single seeds. Faint"
            " lines: validation score against bytes spent so far (a method can be stopped early), cut where"
            " they leave the picture. Dashed: references that pool what peers would never share. The shaded"
            " strip holds what costs nothing.",
        )
        out.append(Section("What a byte buys", [picture]))
    out.append(Section("The order of the methods", [order(results)]))
    if baseline is not None and any(m.family == "knowledge" for m in ranked):
        out.append(Section("For a tenth and a hundredth of FedAvg's bytes", [budgets(results, baseline)]))
    if any(run.curve for method in results.methods for run in method.runs):
        picture = Picture(
            figures.save(figures.rounds, results, folder),
            f"{results.score('validation').capitalize()} by round for every method.",
            "Mean over peers and seeds; the band spans the seeds.",
        )
        out.append(Section("Round by round", [picture]))
    if results.detects:
        out += detection.sections(results)
    else:
        out.append(Section("Modality by modality", [by_modality(results)]))
    if ranked and not results.detects:
        private = "; ".join(f"{m.label} {percent(m.mean('private'))} %" for m in ranked)
        picture = Picture(
            figures.save(figures.private_and_shared, results, folder),
            f"Private against shared test accuracy. Private: {private}.",
            "Private accuracy weighs classes as the peer's own samples do; shared accuracy, all alike.",
        )
        out.append(Section("Private and shared accuracy", [picture]))
    if ranked:
        framing = fmean(
            sum(n for (kind, _), n in run.by_kind.items() if kind == FRAMING)
            for m in ranked
            for run in m.runs
        )
        picture = Picture(
            figures.save(figures.ledger, results, folder),
            f"Bytes per peer by kind and direction: {told}.",
            f"Framing (headers, envelopes) is outside every total: {si(framing, 'B')} per peer on average.",
        )
        out.append(Section("The ledger", [picture, Details("By kind and direction", [traffic(results)])]))
        graphs = "; ".join(
            f"{m.label}: {m.runs[0].graph.name}, {len(m.runs[0].graph.edges)} edges" for m in ranked
        )
        picture = Picture(
            figures.save(figures.topologies, results, folder),
            f"Who sends to whom. {graphs}.",
            "Edges that payloads cross in the first round.",
        )
        out.append(Section("Who speaks to whom", [picture]))
    owned = "Objects in private training frames" if results.detects else "Private training samples"
    picture = Picture(
        figures.save(figures.label_skew, results, folder),
        f"{owned} of {peers} peers by class.",
        f"{owned} of each peer by class, in the first seed.",
    )
    out.append(Section("Who owns what", [picture, students(results)]))
    out.append(Section("How it was done", _method(results, study)))
    if results.missing:
        out.append(Section("What is missing", [results.missing]))
    return out


def _method(results: Results, study: Mapping[str, Any]) -> list[Block]:
    common, differ = settings(results)
    described: list[list[Cell]] = [
        [row["label"], row["family"], row["description"]] for row in study["methods"].values()
    ]
    facts: list[list[Cell]] = [
        ["command", study["command"]],
        ["seeds", ", ".join(map(str, study["seeds"]))],
        ["machine", ", ".join(f"{key}: {_said(value)}" for key, value in study["machine"].items())],
        ["versions", ", ".join(f"{name} {number}" for name, number in study["versions"].items())],
    ]
    return [
        Table(["", ""], facts, words=2),
        study["tuning"] or "The study does not say how its settings were chosen.",
        study["notes"],
        Table(["Method", "Family", "What it does"], described, words=3),
        Details("Settings in which the methods differ", [differ]),
        Details("Settings that all methods share", [common]),
    ]


# --- small measures --------------------------------------------------------------------------------


def _scored(results: Results) -> str:
    """What is averaged, in words."""
    if results.detects:
        return "average precision at an IoU of 0.5 in test frames, averaged over peers"
    return "test accuracy, averaged over peers, as if all classes were equally frequent"


def _shared(method: Method) -> float:
    return method.mean("shared")


def _first(results: Results, family: str) -> Method | None:
    return next((method for method in results.compared if method.family == family), None)


def _validation_within(method: Method, budget: float) -> dict[int, Deal]:
    """The best evaluation of every seed that has one within the budget."""
    found = {
        run.seed: best_within((Deal(point.bytes, point.shared) for point in run.curve), budget)
        for run in method.runs
    }
    return {seed: deal for seed, deal in found.items() if deal is not None}


def _against(method: Method, baseline: Method | None) -> str:
    """The paired difference in shared test accuracy, in points."""
    if baseline is None or method is baseline:
        return ""
    return _difference(paired(method.by_seed("shared"), baseline.by_seed("shared")))


def _difference(gap: Spread | None) -> str:
    if gap is None:
        return "no seed shared"
    low, high = gap.interval()
    return points(gap.mean) + (f" [{points(low)}, {points(high)}]" if gap.count > 1 else "")


def _pm(found: Spread) -> str:
    return percent(found.mean) + (f" \u00b1 {percent(found.std)}" if found.std is not None else "")


def _price(cost: float, full: float) -> str:
    """A cost as a share of FedAvg's."""
    if not cost or not full:
        return ""
    share = cost / full
    if share <= 0.1:
        return f", 1/{1 / share:.0f} of FedAvg's"
    return f", {100 * share:.0f} % of FedAvg's" if share < 2 else f", {share:.1f} times FedAvg's"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _said(value: object) -> str:
    return "none" if value is None else str(value)
