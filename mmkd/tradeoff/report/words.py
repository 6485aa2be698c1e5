"""The sentences of a report that state the result of a study."""

from __future__ import annotations

from mmkd.tradeoff.pareto import CLAIM, paired
from mmkd.tradeoff.report.writing import listed, percent, points, si
from mmkd.tradeoff.results import Results

NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
"""Small numbers in words."""


def lead(results: Results) -> list[str]:
    """Sentences on the result of the study, its certainty, missing runs and peers that sat out."""
    sentences = [winner(results), verdict(results)]
    alone = results.first("none")
    if alone is not None:
        words = f"Peers that exchange nothing ({alone.label}) reach {percent(alone.mean('score'))} %."
        worse = [
            m.label for m in results.compared if m.family != "none" and m.mean("score") <= alone.mean("score")
        ]
        if worse:
            words += f" On average, the bytes of {listed(worse)} bought nothing beyond that."
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
    if results.sat_out:
        sentences.append(
            "Peers that diverged sat out and have no score: where some did, means are over the others; the"
            " end of this page lists them."
        )
    return sentences


def winner(results: Results) -> str:
    """A sentence that names the method that comes first, and says what its score is."""
    entered = results.compared or results.methods
    best = max(entered, key=lambda method: method.mean("score"))
    phrase, score = results.metric.on("test"), percent(best.mean("score"))
    others = f" of {len(entered)} methods" if len(entered) > 1 else ""
    cost = f" for {si(best.mean('bytes'), 'B')} per peer" if best.family != "ceiling" else ""
    return f"{best.label} comes first{others}: {score} % mean {phrase}{cost} ({results.metric.meaning})."


def verdict(results: Results) -> str:
    """A sentence or two that compare distillation with FedAvg."""
    fedavg, taught = results.baseline, [m for m in results.compared if m.family == "knowledge"]
    if fedavg is None or not taught:
        lacking = [w for w, there in (("FedAvg", fedavg), ("a method that distils", taught)) if not there]
        return (
            f"Whether distillation or federated averaging is the better deal stays open: no finished run of"
            f" {' and of '.join(lacking)}."
        )
    # Both are chosen on validation samples, so that the best of many test scores is not chosen by luck.
    chosen = max(taught, key=lambda method: method.validated)
    which, whose = (
        "" if count == 1 else f", best of {count} {kind} methods on validation,"
        for count, kind in ((len(taught), "distillation"), (len(results.averaging), "FedAvg"))
    )
    cost, full = chosen.mean("bytes"), fedavg.mean("bytes")
    start = (
        f"{chosen.label}{which} reaches {percent(chosen.mean('score'))} % mean {results.metric.on('test')}"
        f" for {si(cost, 'B')} per peer{_price(cost, full)}; {fedavg.label}{whose} reaches"
        f" {percent(fedavg.mean('score'))} % for {si(full, 'B')}."
    )
    gap = paired(chosen.by_seed("score"), fedavg.by_seed("score"))
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


def _price(cost: float, full: float) -> str:
    """A cost as a share of FedAvg's."""
    if not cost or not full:
        return ""
    share = cost / full
    if share <= 0.1:
        return f", 1/{1 / share:.0f} of FedAvg's"
    return f", {100 * share:.0f} % of FedAvg's" if share < 2 else f", {share:.1f} times FedAvg's"
