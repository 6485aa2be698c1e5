"""The results of a study, read from its folder and checked."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from math import isclose, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from mmkd.ledger import APART
from mmkd.tables import read_rows
from mmkd.tradeoff.devices import FILE, OnDevice, read_devices
from mmkd.tradeoff.growth import edited, saved_identity
from mmkd.tradeoff.identity import Identity, differences
from mmkd.tradeoff.metric import METRICS, Metric
from mmkd.types import ConfigError, Modality, PeerName

Measure = Literal["score", "worst", "bytes", "flops", "seconds"]
"""A measure of a run that methods are compared by; see ``Run``."""
FAMILIES = ("none", "knowledge", "weights", "both", "ceiling")
"""Families of methods, in the order of a report."""


class Peer(NamedTuple):
    """A peer and its student."""

    modality: Modality
    architecture: str
    parameters: int
    private_samples: int
    label_counts: list[float]
    flops: float


class Graph(NamedTuple):
    """The graph of a run: who sent to whom in round 0."""

    name: str
    hub: str | None
    edges: frozenset[tuple[str, str]]  # (sender, receiver)


class Point(NamedTuple):
    """One evaluation while training: mean over peers, and what had been sent by then."""

    round: int
    bytes: float  # per peer
    score: float


@dataclass(frozen=True)
class Run:
    """A finished run: one method, one seed."""

    seed: int
    seconds: float
    peers: dict[PeerName, Peer]
    settings: dict[str, Any]
    metric: Metric
    bytes: float  # per peer, framing excluded
    by_kind: dict[tuple[str, str], float]  # (kind, direction): bytes per peer, framing among the kinds
    graph: Graph
    curve: list[Point]  # validation
    test: dict[PeerName, dict[str, float]]  # all test metrics
    cost: dict[str, dict[str, float]]  # by fleet: what one sample costs a student; see ``Footprint``
    chosen: dict[str, str]  # by fleet: how ``vectorize: auto`` trains it, and why
    absent: dict[PeerName, str]  # who diverged and sat out: since when, and why
    pictures: dict[PeerName, Path]  # JPEG files with the detections of a test frame
    device: dict[str, dict[PeerName, OnDevice]]  # by recipe: how students do as files

    @property
    def scores(self) -> dict[PeerName, float]:
        """The metric by which peers are compared, on test samples, of those that have any."""
        return {name: self.test[name][self.metric.name] for name in self.peers if name in self.test}

    @property
    def score(self) -> float:
        """The mean of ``scores`` over peers."""
        return fmean(self.scores.values())

    @property
    def worst(self) -> float:
        """The score of the worst peer."""
        return min(self.scores.values())

    @property
    def flops(self) -> float:
        """FLOPs of all peers divided by their number."""
        return fmean(peer.flops for peer in self.peers.values())

    def tested(self, metric: str) -> float:
        """Any metric of every peer on test samples, mean over peers."""
        return fmean(own[metric] for own in self.test.values())

    def of(self, modality: Modality) -> list[float]:
        """The scores of the peers of a modality."""
        scores = self.scores
        return [score for name, score in scores.items() if self.peers[name].modality == modality]


@dataclass(frozen=True)
class Method:
    """One method and its finished runs, in the order of their seeds."""

    name: str
    label: str
    description: str
    family: str
    runs: list[Run]

    def by_seed(self, measure: Measure) -> dict[int, float]:
        """A measure of every run, by seed."""
        return {run.seed: getattr(run, measure) for run in self.runs}

    def mean(self, measure: Measure) -> float:
        """A measure's mean over seeds."""
        return fmean(self.by_seed(measure).values())

    def tested(self, metric: str) -> float:
        """Any metric of every peer on test samples, mean over peers, then over seeds."""
        return fmean(run.tested(metric) for run in self.runs)

    @property
    def validated(self) -> float:
        """The score of the last evaluation on validation samples, mean over seeds."""
        return fmean(run.curve[-1].score if run.curve else 0.0 for run in self.runs)


@dataclass(frozen=True)
class Results:
    """A study with the runs that are finished."""

    study: dict[str, Any]
    methods: list[Method]  # those with a finished run, in the study's order
    missing: list[str]  # runs without a result, in words
    left_out: list[str]  # runs on the disk that are not of the study as it is now, in words
    references: dict[str, dict[Modality, list[float]]]  # by reference and modality: a score for each seed

    @property
    def sat_out(self) -> list[str]:
        """Peers that diverged and sat out the rest of a run, in words."""
        return [
            f"{method.label}, seed {run.seed}: {name} sat out {since}"
            for method in self.methods
            for run in method.runs
            for name, since in run.absent.items()
        ]

    @property
    def compared(self) -> list[Method]:
        """The methods that are compared: all but the ceilings."""
        return [method for method in self.methods if method.family != "ceiling"]

    @property
    def ranked(self) -> list[Method]:
        """The methods that are compared, best first."""
        return sorted(self.compared, key=lambda method: method.mean("score"), reverse=True)

    def first(self, family: str) -> Method | None:
        """The first method of a family; None if the study has none of it."""
        return next((method for method in self.compared if method.family == family), None)

    @property
    def ceilings(self) -> list[Method]:
        """Reference methods, which train on the pooled samples of peers."""
        return [method for method in self.methods if method.family == "ceiling"]

    @property
    def baseline(self) -> Method | None:
        """FedAvg: of the weights-only methods whose names begin with ``fedavg``, the best on validation."""
        return max(self.averaging, key=lambda method: method.validated, default=None)

    @property
    def averaging(self) -> list[Method]:
        """The variants of FedAvg."""
        return [m for m in self.methods if m.family == "weights" and m.name.startswith("fedavg")]

    @property
    def metric(self) -> Metric:
        """The metric by which peers and methods are compared."""
        return self.methods[0].runs[0].metric

    @property
    def modalities(self) -> list[Modality]:
        """The modalities, in the order of their peers."""
        runs = [run for method in self.methods for run in method.runs]
        return list(dict.fromkeys(peer.modality for run in runs for peer in run.peers.values()))


def read(folder: Path) -> Results:
    """Read the results folder of a study.

    Raises:
        ConfigError: the folder holds no study or no finished run, or a file in it is broken.
    """
    marker = folder / "study.json"
    if not marker.is_file():
        raise ConfigError(f"{folder} holds no study (no study.json); give the --out folder of mmkd tradeoff")
    methods, missing, left_out = [], [], []
    with _reading(marker, "remove it and run mmkd tradeoff again, which writes it anew"):
        study = json.loads(marker.read_text())
        seeds, rows = [int(seed) for seed in study["seeds"]], [*study["methods"].items()]
        for key in ("title", "command", "versions", "machine", "tuning", "notes"):
            study[key]
        for name, row in rows:
            if row["family"] not in FAMILIES:
                raise ValueError(f"method {name} has the unknown family '{row['family']}'")
    for name, row in rows:
        runs = []
        for seed in seeds:
            run = folder / "runs" / name / f"seed{seed}"
            if not (run / "result.json").is_file():
                missing.append(f"{row['label']}, seed {seed}: {_state(run)}")
            elif differ := _untrue(run, row.get("made_of"), seed):
                left_out.append(f"{row['label']}, seed {seed}: {differ}")
            else:
                runs.append(_run(run, seed))
        if runs:
            methods.append(Method(name, row["label"], row["description"], row["family"], runs))
    if not methods:
        raise ConfigError(f"no run of the study in {folder} is finished; run mmkd tradeoff again to go on")
    if len(names := {run.metric.name for method in methods for run in method.runs}) > 1:
        raise ConfigError(
            f"runs in {folder} are compared by {' or by '.join(sorted(names))}, not by one metric"
        )
    left_out += [
        f"{path.name}: the study no longer has this method; its runs are in {path}"
        for path in sorted((folder / "runs").glob("*"))
        if path.name not in study["methods"] and any(path.glob("seed*/result.json"))
    ]
    return Results(study, methods, missing, left_out, _references(folder / "references"))


def _untrue(folder: Path, now: Mapping[str, Any] | None, seed: int) -> str:
    """Why a result is not that of the study as it is now, in words; nothing if it is."""
    with _reading(folder / "result.json") as path:
        if wrong := edited(folder, json.loads(path.read_text())):
            return wrong
    begun = saved_identity(folder)
    if now is None or begun is None:  # of an older mmkd, which did not write it
        return ""
    with _reading(folder.parents[2] / "study.json"):
        return "; ".join(differences(begun, Identity(**now).with_seed(seed)))


def _state(folder: Path) -> str:
    """Why a run has no result: it has diverged, is not finished, or has not begun."""
    if (folder / "failed.json").is_file():
        with _reading(folder / "failed.json") as path:
            return str(json.loads(path.read_text())["reason"])
    return "unfinished" if folder.exists() else "not started"


def _run(folder: Path, seed: int) -> Run:
    with _reading(folder / FILE) as path:
        device = read_devices(path)
    with _reading(folder / "result.json") as path:
        saved = json.loads(path.read_text())
        peers = {name: Peer(*(row[field] for field in Peer._fields)) for name, row in saved["peers"].items()}
        if not peers:
            raise ValueError("the run has no peers")
        ledger, topology = saved["ledger"], saved["topology"]
        if "metric" not in saved:
            raise ValueError("an older mmkd wrote it, which did not say by which metric peers are compared")
        metric, test = METRICS[saved["metric"]], saved["test"]
        if not test or test.keys() - peers:
            raise ValueError("test scores are of no peer, or of strangers")
        for name, key in product(test, (metric.name, *metric.beside.values())):
            _finite(test[name][key])
        by_kind = {
            (kind, direction): nbytes / len(peers)
            for kind, row in ledger["by_kind"].items()
            for direction, nbytes in row.items()
        }
        counted = sum(nbytes for (kind, _), nbytes in by_kind.items() if kind not in APART)
        if not isclose(counted, ledger["bytes_per_peer"], abs_tol=1e-6):
            raise ValueError(f"bytes by kind add up to {counted} a peer, not to {ledger['bytes_per_peer']}")
        edges = frozenset((str(sender), str(receiver)) for sender, receiver in topology["edges"])
        if strangers := {name for edge in edges for name in edge} - {*peers, topology["hub"]}:
            raise ValueError(
                f"edges touch {', '.join(sorted(strangers))}, which is neither a peer nor the hub"
            )
        return Run(
            seed=seed,
            seconds=float(saved["seconds"]),
            peers=peers,
            settings=dict(saved["settings"]),
            metric=metric,
            bytes=_finite(ledger["bytes_per_peer"]),
            test=test,
            cost=saved.get("cost", {}),
            chosen={
                fleet: f"{'side by side' if way['vectorized'] else 'one after the other'}: {way['reason']}"
                for fleet, way in saved.get("vectorized", {}).items()
            },
            absent={
                name: f"from round {row['round']} on: {row['reason']}"
                for name, row in saved.get("absent", {}).items()
            },
            pictures={
                name: picture
                for name in peers
                if (picture := folder / "pictures" / f"{name.replace('/', '_')}.jpg").is_file()
            },
            device=device,
            by_kind=by_kind,
            graph=Graph(topology["name"], topology["hub"], edges),
            curve=_curve(folder / "curve.csv", metric, leave=bool(saved.get("absent"))),
        )


def _curve(path: Path, metric: Metric, *, leave: bool) -> list[Point]:
    """The validation curve, mean over the peers that have samples and do not sit out."""
    rows: dict[tuple[int, int, float], list[float]] = defaultdict(list)
    with _reading(path), path.open(newline="") as file:
        for row in read_rows(file):
            if row["split"] == "val":
                at = int(row["step"]), int(row["round"]), _finite(row["bytes_per_peer"])
                rows[at].append(_finite(row[metric.name]))
        sizes = [len(found) for _, found in sorted(rows.items())]
        # Peers without validation samples are in none; peers that diverge and sit out are in no more.
        if any(after > before or (after < before and not leave) for before, after in pairwise(sizes)):
            raise ValueError(f"evaluations are of {', '.join(map(str, sizes))} peers, who may only leave")
    return [Point(number, nbytes, fmean(found)) for (_, number, nbytes), found in sorted(rows.items())]


def _references(folder: Path) -> dict[str, dict[Modality, list[float]]]:
    table: dict[str, dict[Modality, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("seed*.json")):
        with _reading(path):
            for modality, row in json.loads(path.read_text()).items():
                for reference, score in row.items():
                    table[reference][modality].append(_finite(score))
    return table


def _finite(number: Any) -> float:
    if not isfinite(value := float(number)):
        raise ValueError(f"{number} is not finite")
    return value


@contextmanager
def _reading(
    path: Path, advice: str = "restore it, or move its folder away and run mmkd tradeoff again"
) -> Iterator[Path]:
    """Turn any error in reading a file into a ``ConfigError`` that names it and says what to do."""
    try:
        yield path
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path} cannot be read ({reason}); {advice}") from None
