"""The report of a study: writes its page, its figures and its summary from the results on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from mmkd.files import replacing
from mmkd.ledger import FRAMING
from mmkd.tradeoff.metric import AVERAGE_PRECISION, SHARED_ACCURACY
from mmkd.tradeoff.report import classification, detection, devices, summary
from mmkd.tradeoff.report.figures.devices import devices as drawn_devices
from mmkd.tradeoff.report.figures.ledger import ledger
from mmkd.tradeoff.report.figures.peers import label_skew, topologies
from mmkd.tradeoff.report.figures.scores import headline, rounds, spending
from mmkd.tradeoff.report.figures.style import save
from mmkd.tradeoff.report.page import Block, Cell, Details, Picture, Section, Table, page, plain
from mmkd.tradeoff.report.tables import budgets, order, settings, students, traffic
from mmkd.tradeoff.report.words import lead
from mmkd.tradeoff.report.writing import percent, si
from mmkd.tradeoff.results import Results, read


def report(folder: Path) -> Path:
    """Draw ``report.html``, ``figures/`` and CSV tables into a folder, and print the order of methods.

    Raises:
        ConfigError: the folder holds no study or no finished run, or a file in it is broken.
    """
    results = read(folder)
    (folder / "figures").mkdir(exist_ok=True)
    text = page(results.study["title"], lead(results), sections(results, folder / "figures"))
    path = folder / "report.html"
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    summary.write(results, folder / "summary.csv")
    if found := devices.artefacts(results):
        devices.write(found, folder / "devices.csv")
    print(f"\n{results.study['title']}\n\n{plain(order(results), width=100)}\n")
    print(
        "\n".join(
            [
                *lead(results),
                *([f"Without a result: {len(results.missing)}"] if results.missing else []),
                *(f"Sat out: {who}" for who in results.sat_out),
                *(f"Left out: {what}" for what in results.left_out),
            ]
        )
    )
    return path


def sections(results: Results, folder: Path) -> list[Section]:
    """The body of the page; its figures are also written into ``folder``."""
    baseline, out = results.baseline, []
    if results.ranked:
        out.append(_bytes_and_scores(results, folder))
    out.append(Section("The order of the methods", [order(results)]))
    if baseline is not None and any(method.family == "knowledge" for method in results.compared):
        out.append(Section("For a tenth and a hundredth of FedAvg's bytes", [budgets(results, baseline)]))
    if any(run.curve for method in results.methods for run in method.runs):
        out += [_rounds(results, folder), *([_spending(results, folder)] if results.ranked else [])]
    if results.metric == AVERAGE_PRECISION:
        out += detection.sections(results)
    elif results.metric == SHARED_ACCURACY:
        out += classification.sections(results, folder)
    else:
        out.append(Section("Modality by modality", [classification.by_modality(results)]))
    if found := devices.artefacts(results):
        out.append(_devices(results, found, folder))
    if results.ranked:
        out += [_traffic(results, folder), _graphs(results, folder)]
    out.append(_owned(results, folder))
    out.append(Section("How it was done", _method(results, results.study)))
    if results.missing:
        out.append(Section("What is missing", [results.missing]))
    if results.sat_out:
        out.append(Section("Who sat out", [results.sat_out]))
    if results.left_out:
        words = "Runs on the disk that are not those of the study as it is now."
        out.append(Section("What is left out", [words, results.left_out]))
    return out


def _in_words(results: Results) -> str:
    """Score and bytes of every method in words, for readers who cannot see a figure."""
    return "; ".join(
        f"{method.label} {percent(method.mean('score'))} % for {si(method.mean('bytes'), 'B')}"
        for method in results.ranked
    )


def _bytes_and_scores(results: Results, folder: Path) -> Section:
    picture = Picture(
        save(headline, results, folder),
        f"Mean {results.metric.on('test')} against bytes per peer: {_in_words(results)}.",
        f"Large markers: mean over seeds of the {results.metric.meaning}. Small markers: single seeds."
        " Dashed: references that pool what peers would never share. The shaded strip holds what costs"
        " nothing.",
    )
    return Section("What a byte buys", [picture])


def _rounds(results: Results, folder: Path) -> Section:
    picture = Picture(
        save(rounds, results, folder),
        f"Mean {results.metric.on('validation')} by round for every method.",
        "Mean over peers and seeds; the band spans the seeds.",
    )
    return Section("Round by round", [picture])


def _spending(results: Results, folder: Path) -> Section:
    picture = Picture(
        save(spending, results, folder),
        f"Mean {results.metric.on('validation')} against bytes spent so far for every method.",
        "Mean over peers and seeds while they train: a method can be stopped early.",
    )
    return Section("Byte by byte", [picture])


def _traffic(results: Results, folder: Path) -> Section:
    framing = fmean(
        sum(nbytes for (kind, _), nbytes in run.by_kind.items() if kind == FRAMING)
        for method in results.ranked
        for run in method.runs
    )
    picture = Picture(
        save(ledger, results, folder),
        f"Bytes per peer by kind and direction: {_in_words(results)}.",
        f"Framing (headers, envelopes) is outside every total: {si(framing, 'B')} per peer on average.",
    )
    return Section("The ledger", [picture, Details("By kind and direction", [traffic(results)])])


def _devices(results: Results, found: list[devices.Artefact], folder: Path) -> Section:
    words = "; ".join(f"{one.method.label}, {one.recipe}: {percent(one.score.mean)} %" for one in found)
    picture = Picture(
        save(drawn_devices, results, folder),
        f"Test scores of exported students against bytes sent, size, latency and memory: {words}.",
        "Means over seeds; lines span the interval of the mean, of few seeds their range.",
    )
    return Section("On a device", [picture, devices.on_devices(results, found)])


def _graphs(results: Results, folder: Path) -> Section:
    graphs = "; ".join(
        f"{method.label}: {method.runs[0].graph.name}, {len(method.runs[0].graph.edges)} edges"
        for method in results.ranked
    )
    picture = Picture(
        save(topologies, results, folder),
        f"Who sends to whom. {graphs}.",
        "Edges that payloads cross in the first round.",
    )
    return Section("Who speaks to whom", [picture])


def _owned(results: Results, folder: Path) -> Section:
    owned, peers = results.metric.owned, len((results.compared or results.methods)[0].runs[0].peers)
    if not owned:
        return Section("Who they are", [students(results)])
    picture = Picture(
        save(label_skew, results, folder),
        f"{owned} of {peers} peers by class.",
        f"{owned} of each peer by class, in the first seed.",
    )
    return Section("Who owns what", [picture, students(results)])


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
    chosen = dict.fromkeys(
        f"{fleet} {way}" for m in results.methods for run in m.runs for fleet, way in run.chosen.items()
    )
    if chosen:
        facts.append(["trained (auto)", "; ".join(chosen)])
    return [
        Table(["", ""], facts, words=2),
        study["tuning"] or "The study does not say how its settings were chosen.",
        study["notes"],
        Table(["Method", "Family", "What it does"], described, words=3),
        Details("Settings in which the methods differ", [differ]),
        Details("Settings that all methods share and that are not the defaults", [common]),
    ]


def _said(value: object) -> str:
    return "none" if value is None else str(value)
