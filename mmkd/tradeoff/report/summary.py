"""The summary of a study: one CSV table with a row for each method."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from mmkd.files import replacing
from mmkd.tables import write_rows
from mmkd.tradeoff.pareto import paired, spread
from mmkd.tradeoff.results import Results


def summary(results: Results) -> list[dict[str, str | int | float]]:
    """A row for each method, in the study's order.

    The score, in the column ``shared``, ``map50``, ``f1`` or ``r2``, is a share of 1 on test samples, mean
    over peers, then over seeds. So are those of each modality and ``private``, the private accuracy of
    classifiers; ``mse`` and ``mae`` of a regression are in units of its values. ``worst``
    is the score of the worst peer, ``std`` is over seeds, ``low`` and ``high`` are those of
    ``Spread.interval``. Bytes and FLOPs are per peer, seconds those of the whole run. ``gap`` is the score
    above that of FedAvg (``Results.baseline``), paired by seed. Values that do not exist are empty.
    """
    rows: list[dict[str, str | int | float]] = []
    baseline = results.baseline
    for method in results.methods:
        score = spread(method.by_seed("score").values())
        gap = None
        if baseline is not None and method is not baseline:
            gap = paired(method.by_seed("score"), baseline.by_seed("score"))
        low, high = score.interval()
        row: dict[str, str | int | float | None] = {
            "method": method.name,
            "label": method.label,
            "family": method.family,
            "seeds": score.count,
            results.metric.head.lower(): score.mean,
            "std": score.std,
            "low": low,
            "high": high,
        }
        for modality in results.modalities:
            of = [score for run in method.runs for score in run.of(modality)]
            row[modality] = fmean(of) if of else None
        row |= {column: method.tested(metric) for column, metric in results.metric.beside.items()}
        row |= {
            "worst": method.mean("worst"),
            "bytes": round(method.mean("bytes")),
            "flops": f"{method.mean('flops'):.3e}",
            "seconds": round(method.mean("seconds")),
            "gap": gap.mean if gap else None,
            "gap_low": gap.interval()[0] if gap else None,
            "gap_high": gap.interval()[1] if gap else None,
        }
        rows.append(
            {k: "" if v is None else round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        )
    return rows


def write(results: Results, path: Path) -> None:
    """Write the rows to a file, which is replaced at once."""
    rows = summary(results)
    with replacing(path) as part, part.open("w", newline="") as file:
        write_rows(file, [rows[0], *(row.values() for row in rows)])
