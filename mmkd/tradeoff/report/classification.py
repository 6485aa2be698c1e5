"""Sections of a report on classifiers: scores by modality, and private against shared accuracy."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from mmkd.tradeoff.pareto import spread
from mmkd.tradeoff.report.appearance import appearances, swatch
from mmkd.tradeoff.report.figures.scores import private_and_shared
from mmkd.tradeoff.report.figures.style import save
from mmkd.tradeoff.report.page import Cell, Picture, Section, Table
from mmkd.tradeoff.report.writing import percent, plus_minus
from mmkd.tradeoff.results import Results


def sections(results: Results, folder: Path) -> list[Section]:
    """Tables and a figure, in the order of the page; the figure is also written into ``folder``."""
    out = [Section("Modality by modality", [by_modality(results)])]
    if results.ranked:
        private = "; ".join(f"{m.label} {percent(m.tested('private_accuracy'))} %" for m in results.ranked)
        picture = Picture(
            save(private_and_shared, results, folder),
            f"Private against shared test accuracy. Private: {private}.",
            "Private accuracy weighs classes as the peer's own samples do; shared accuracy, all alike.",
        )
        out.append(Section("Private and shared accuracy", [picture]))
    return out


def by_modality(results: Results) -> Table:
    """Scores in each modality, and references that train on the pooled samples of all peers."""
    appearance, kinds = appearances(results), results.modalities
    head = ["Method", *(f"{m} {what}" for m in kinds for what in ("%", "worst"))]
    rows: list[list[Cell]] = []
    for method in [*results.ranked, *results.ceilings]:
        row: list[Cell] = [swatch(method, appearance[method.name])]
        for modality in kinds:
            found = [run.of(modality) for run in method.runs if run.of(modality)]
            row += (
                [plus_minus(spread(map(fmean, found))), percent(fmean(map(min, found)))]
                if found
                else ["\u2013", "\u2013"]
            )
        rows.append(row)
    for reference, scores in results.references.items():
        cells = [plus_minus(spread(scores[m])) if scores.get(m) else "\u2013" for m in kinds]
        rows.append(
            [f"{reference.replace('_', ' ')} (pooled)", *(c for cell in cells for c in (cell, "\u2013"))]
        )
    return Table(head, rows)
