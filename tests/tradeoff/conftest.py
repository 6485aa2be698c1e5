"""A results folder as a study leaves it, with numbers that a test can derive by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

CLASSES, ROUNDS = 10, 20
COLUMNS = "round,step,bytes_per_peer,flops_per_peer,split,peer,modality,shared_accuracy,private_accuracy"
PEERS = {
    f"{fleet}/{k}": modality
    for fleet, modality in {"cameras": "image", "microphones": "audio", "phones": "text"}.items()
    for k in range(4)
}
STUDENTS = {
    "image": ("VisionStudent", 44170),
    "audio": ("AudioStudent", 31500),
    "text": ("TextStudent", 52010),
}

# method: label, family, final accuracy, bytes per peer of all rounds by kind and direction, topology
METHODS: dict[str, tuple[str, str, float, dict[str, dict[str, int]], str]] = {
    "isolated": ("Isolated", "none", 0.62, {}, "Isolated"),
    "distillation": ("Distillation through a hub", "knowledge", 0.782,
                     {"logits": {"up": 80_000, "down": 80_000}, "framing": {"up": 600, "down": 600}}, "Star"),
    "ring": ("Distillation on a ring", "knowledge", 0.74, {"logits": {"peer": 18_000}}, "Ring"),
    "fedavg": ("FedAvg within modality", "weights", 0.75,
               {"weights": {"up": 1_500_000, "down": 1_500_000}, "framing": {"up": 900, "down": 900}}, "Star"),
    "hybrid": ("Weights within, knowledge across modalities", "both", 0.82,
               {"weights": {"up": 1_500_000, "down": 1_500_000}, "logits": {"up": 80_000, "down": 80_000}}, "Star"),
    "pooled": ("Pooled, no privacy", "ceiling", 0.93, {}, "Isolated"),
}  # fmt: skip


def accuracy(method: str, seed: int, position: int) -> float:
    """Final shared accuracy of a peer: peers spread by +-0.011 around the mean, seeds by 0.01."""
    own = {"ring": 0.02, "distillation": -0.005}.get(method, 0.0) * (seed == 1)
    return METHODS[method][2] + 0.01 * (seed - 1) + own + 0.002 * (position - 5.5)


def edges(topology: str) -> list[list[str]]:
    names = list(PEERS)
    if topology == "Star":
        return [[name, "hub"] for name in names] + [["hub", name] for name in names]
    if topology == "Ring":
        pairs = [[names[i], names[(i + 1) % len(names)]] for i in range(len(names))]
        return pairs + [pair[::-1] for pair in pairs]
    return []


def write_run(folder: Path, method: str, seed: int) -> None:
    """One finished run."""
    _, _, _, by_kind, topology = METHODS[method]
    run = folder / "runs" / method / f"seed{seed}"
    run.mkdir(parents=True)
    per_peer = sum(sum(row.values()) for kind, row in by_kind.items() if kind != "framing")
    test = {
        name: {
            "shared_accuracy": accuracy(method, seed, i),
            "private_accuracy": 0.8 + accuracy(method, seed, i) / 8,
            "loss": 0.5,
        }
        for i, name in enumerate(PEERS)
    }
    result: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "seconds": 61.5,
        "peers": {
            name: {
                "modality": modality,
                "architecture": STUDENTS[modality][0],
                "parameters": STUDENTS[modality][1],
                "private_samples": 210,
                "label_counts": [(17 * i + 31 * c + seed) % 43 if (i + c) % 3 else 0 for c in range(CLASSES)],
                "flops": 1.2e12,
            }
            for i, (name, modality) in enumerate(PEERS.items())
        },
        "settings": {"model.vectorize": "always", "decentralized.topology.class_path": topology},
        "metric": "shared_accuracy",
        "test": test,
        "val": test,
        "ledger": {
            "bytes_per_peer": float(per_peer),
            "framing_per_peer": sum(by_kind.get("framing", {}).values()),
            "by_kind": {k: {way: n * len(PEERS) for way, n in row.items()} for k, row in by_kind.items()},
            "rounds": ROUNDS,
        },
        "topology": {
            "name": topology,
            "hub": "hub" if topology == "Star" else None,
            "edges": edges(topology),
        },
    }
    (run / "result.json").write_text(json.dumps(result))
    with (run / "curve.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        file.write(f"{COLUMNS}\n")
        for number in range(1, ROUNDS + 1):
            share = number / ROUNDS
            for i, (name, modality) in enumerate(PEERS.items()):
                # Straight up to the final accuracy in the last round.
                reached = 0.3 + (accuracy(method, seed, i) - 0.3) * share
                row = [number, 25 * number, per_peer * share, 1.2e12 * share, "val", name, modality]
                writer.writerow([*row, reached, 0.9])
        for name, modality in PEERS.items():  # no part of a validation curve
            writer.writerow([ROUNDS, 25 * ROUNDS, per_peer, 1.2e12, "test", name, modality, 0.99, 0.99])


def write_study(folder: Path, seeds: list[int], **changes: Any) -> Path:
    """The marker of a study; ``changes`` replace its keys."""
    folder.mkdir(parents=True, exist_ok=True)
    study = {
        "name": "digits",
        "title": "Digits seen, heard and read: what a byte buys",
        "methods": {
            name: {"label": label, "family": family, "description": f"What {label} does."}
            for name, (label, family, *_) in METHODS.items()
        },
        "seeds": seeds,
        "command": "mmkd tradeoff configs/study/digits.yaml --out results",
        "versions": {"mmkd": "0.1.0", "torch": "2.13.0"},
        "machine": {"cores": 2, "gpu": None},
        "tuning": "Six learning rates were tried for every method with seed 100, on validation samples.",
        "notes": ["Public labels are never read."],
    }
    (folder / "study.json").write_text(json.dumps(study | changes))
    (folder / "references").mkdir(exist_ok=True)
    for seed in seeds:
        scores = {m: {"nearest_neighbour": 0.96 + 0.01 * seed} for m in STUDENTS}
        (folder / "references" / f"seed{seed}.json").write_text(json.dumps(scores))
    return folder


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and not rendered, which takes longest, for tests that read the rest of a page."""

    def savefig(self: Figure, file: Any, **_: Any) -> None:
        if isinstance(file, io.StringIO):
            file.write("<svg ></svg>")

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(methods=..., seeds=..., **changes of study.json)`` gives a results folder."""

    def make(methods: list[str] | None = None, seeds: tuple[int, ...] = (0, 1, 2), **changes: Any) -> Path:
        folder = write_study(tmp_path / "results", list(seeds), **changes)
        for method in methods if methods is not None else METHODS:
            for seed in seeds:
                write_run(folder, method, seed)
        return folder

    return make
