"""The configuration files of a new project: data, peers, methods, a trainer and a small study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmkd.starting.fitting import Fit
from mmkd.types import ConfigError

STUDENTS = {"image": "VisionStudent", "audio": "AudioStudent", "text": "TextStudent"}
"""The student of each modality."""
STEPS = 10
"""Local steps of a round."""
KNOWLEDGE = {
    "class_path": "SharedLogits",
    "init_args": {
        "consensus": {"class_path": "MeanProbability", "init_args": {"sharpen": 2.0}},
        "samples": "all",
        "wire": {"class_path": "Floats", "init_args": {"precision": "float16"}},
        "alpha": 0.5,
    },
}
"""What peers teach: predictions on all public samples."""
WEIGHTS = {"class_path": "FedAvg", "init_args": {"among": "modality", "optimizer_state": "keep"}}
"""How peers of a modality combine their weights."""
METHODS: Mapping[str, tuple[str, str, str, Mapping[str, Any]]] = {
    "isolated": ("Isolated", "none", "Nobody exchanges anything.", {}),
    "fedavg": ("FedAvg within modality", "weights", "Weights within a modality.", {"aggregation": WEIGHTS}),
    "distillation": ("Distillation", "knowledge", "Predictions on public samples.", {"knowledge": KNOWLEDGE}),
    "hybrid": ("Both", "both", "Weights and predictions.", {"knowledge": KNOWLEDGE, "aggregation": WEIGHTS}),
}
"""Label, family, description and factors of each method."""


def write(fit: Fit, folder: Path) -> None:
    """Write the files into a new folder.

    Raises:
        ConfigError: it is there already, and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already; give --out another name")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (about, content) in _contents(fit, folder.name).items():
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        (folder / f"{name}.yaml").write_text(f"# {about}\n{text}", encoding="utf-8")


def _contents(fit: Fit, name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """What each file is, and what it says."""
    peers = {
        fleet: {"count": count, "student": _student(modality, fit.students[modality])}
        for fleet, (count, modality) in fit.fleets.items()
    }
    trainer = {"accelerator": "cpu", "devices": 1, "max_epochs": 20, "num_sanity_val_steps": 0}
    trainer |= {"log_every_n_steps": 1, "logger": False}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "data": ("Your data.", {"data": dict(fit.data)}),
        "peers": ("Who learns: a student for each peer.", {"model": {"peers": peers}}),
        "trainer": ("Twenty rounds; raise max_epochs for more.", {"trainer": trainer}),
    }
    methods = {}
    for key, (label, family, about, factors) in METHODS.items():
        own = {"topology": {"class_path": "Star"}, **factors} if factors else {}
        found[key] = about, {"decentralized": {**own, "schedule": {"local_steps": STEPS}}}
        methods[key] = {"label": label, "family": family, "description": about, "configs": [f"{key}.yaml"]}
    study = {
        "name": name,
        "title": f"{name}: what does a byte buy?",
        "seeds": [0, 1],
        "configs": ["data.yaml", "peers.yaml", "trainer.yaml"],
        "methods": methods,
    }
    return {**found, "study": ("Every method with two seeds; mmkd tradeoff runs it.", study)}


def _student(modality: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.003}}
    return {
        "class_path": STUDENTS[modality],
        "init_args": {**settings, "prior_correction": 1.0, "optimizer": optimizer},
    }
