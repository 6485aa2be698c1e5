"""Tables of a report for classifiers and detectors alike: order, budgets, traffic, students, settings."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

from mmkd.tradeoff.pareto import CLAIM, Deal, best_within, paired, spread
from mmkd.tradeoff.report.appearance import appearances, swatch
from mmkd.tradeoff.report.page import Cell, Table
from mmkd.tradeoff.report.writing import difference, listed, percent, plus_minus, si
from mmkd.tradeoff.results import Method, Results

FRACTIONS = (10, 100)
"""The fractions of FedAvg's bytes that are budgets of distillation."""


def order(results: Results) -> Table:
    """The methods, best first; ceilings last."""
    appearance, baseline = appearances(results), results.baseline
    score = f"{results.metric.head} %"
    head = ["Method", "Seeds", score, "Worst %", "Bytes", "FLOPs", "Seconds", "vs FedAvg"]
    rows: list[list[Cell]] = []
    for method in [*results.ranked, *results.ceilings]:
        rows.append(
            [
                swatch(method, appearance[method.name]),
                str(len(method.runs)),
                plus_minus(spread(method.by_seed("score").values())),
                percent(method.mean("worst")),
                "\u2013" if method.family == "ceiling" else si(method.mean("bytes"), "B"),
                si(method.mean("flops"), "FLOP").removesuffix("FLOP").strip(),
                f"{method.mean('seconds'):.0f}",
                _against(method, baseline),
            ]
        )
    note = (
        f"{results.metric.head}: {results.metric.meaning}; then mean \u00b1 standard deviation over seeds."
        " Worst: the worst peer of each run, mean over seeds. Bytes: tensor payload over all directed edges,"
        " divided by the number of peers, as FLOPs are; pooling would send the samples themselves, which is"
        " not counted. Seconds: the whole run. vs FedAvg: percentage points, paired by seed; the mean, and in"
        f" brackets the range over seeds, or from {CLAIM} seeds on the 95 % t interval of the mean."
    )
    return Table(head, rows, note=note)


def budgets(results: Results, baseline: Method) -> Table:
    """The scores of distillation within a tenth and a hundredth of FedAvg's bytes."""
    appearance, full = appearances(results), baseline.mean("bytes")
    everything = _validation_within(baseline, full)
    head = ["Method", "Budget", "Validation %", "Spent by then", "vs FedAvg", "Whole run: test %"]
    none = results.first("none")
    cases = [(baseline, full, "all of FedAvg's"), *([(none, 0.0, "nothing")] if none else [])]
    cases += [
        (method, full / fraction, f"1/{fraction}")
        for fraction in FRACTIONS
        for method in results.compared
        if method.family == "knowledge"
    ]
    rows: list[list[Cell]] = []
    for method, budget, words in cases:
        row: list[Cell] = [swatch(method, appearance[method.name]), f"{words}: {si(budget, 'B')}"]
        found = _validation_within(method, budget)
        best = {seed: deal.gain for seed, deal in found.items()}
        if best:
            partly = "" if len(best) == len(method.runs) else f" ({len(best)} of {len(method.runs)} seeds)"
            gap = paired(best, {seed: deal.gain for seed, deal in everything.items()})
            row += [
                plus_minus(spread(best.values())) + partly,
                si(fmean(deal.cost for deal in found.values()), "B"),
            ]
            row.append("" if method is baseline else difference(gap))
        else:
            row += ["no evaluation so early", "\u2013", "\u2013"]
        whole = plus_minus(spread(method.by_seed("score").values()))
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
        methods = "all" if len(users) == len(results.methods) else listed([m.label for m, _ in users])
        rows.append([modality, architecture, methods, f"{parameters:,}", " or ".join(map(str, counted))])
    return Table(["Modality", "Architecture", "Methods", "Parameters", "Peers"], rows, words=3)


def settings(results: Results) -> tuple[Table, Table]:
    """Settings that all methods share, and those in which they differ; read from the first run of each."""
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


def _validation_within(method: Method, budget: float) -> dict[int, Deal]:
    """The best evaluation of every seed that has one within the budget."""
    found = {
        run.seed: best_within((Deal(point.bytes, point.score) for point in run.curve), budget)
        for run in method.runs
    }
    return {seed: deal for seed, deal in found.items() if deal is not None}


def _against(method: Method, baseline: Method | None) -> str:
    """The paired difference in the test score, in points."""
    if baseline is None or method is baseline:
        return ""
    return difference(paired(method.by_seed("score"), baseline.by_seed("score")))
