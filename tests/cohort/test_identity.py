"""A run goes on with the settings that were saved; what decides nothing that is computed may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAvg, FedProx
from mmkd.knowledge import SharedLogits
from mmkd.topology import Ring, Star
from mmkd.transport import LocalTransport
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, TinyData, schedule, sgd, trainer


def go(folder: Path, ckpt: Path | None = None, **changed: Any) -> Any:
    """One epoch, or two if the run goes on; arguments are those of the cohort's parts, by name."""
    settings: dict[str, Any] = {"optimizer": sgd(0.1), "epochs": 1 if ckpt is None else 2} | changed
    student = {n: settings[n] for n in ("optimizer", "scheduler", "drop", "dim") if n in settings}
    cohort = Cohort(
        {"eyes": Fleet(lambda n: Eye(n, **student), 2, learning_rate_scale=settings.get("scale", 1.0))},
        CLASSES,
        vectorize=settings.get("vectorize", "never"),
        clip=settings.get("clip"),
    )
    callback = DecentralizedCallback(
        settings.get("knowledge"),
        settings.get("aggregation", FedAvg()),
        settings.get("topology", Star()),
        schedule(local_steps=settings.get("steps", 2)),
        settings.get("transport"),
    )
    run = trainer(
        callback, max_epochs=settings["epochs"], limit_val_batches=0, logger=settings.get("logger", False)
    )
    data = TinyData(batch_size=settings.get("batch_size", 16), seed=settings.get("seed", 0))
    run.fit(cohort, datamodule=data, ckpt_path=ckpt)
    return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    go(folder).save_checkpoint(folder / "one.ckpt")
    return folder / "one.ckpt"


def decay(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "aggregation": (
        {"aggregation": FedProx(mu=0.1)},
        r"decentralized.aggregation was 'mmkd.federated.fedavg.FedAvg' and is 'mmkd.federated.fedprox.FedProx'",
    ),
    "among": ({"aggregation": FedAvg(among="all")}, "aggregation.among was 'modality' and is 'all'; go on"),
    "topology": ({"topology": Ring()}, "decentralized.topology was 'mmkd.topology.fixed.Star' and is "),
    "knowledge": ({"knowledge": SharedLogits()}, "decentralized.knowledge was None and is 'mmkd.knowledge"),
    "steps": ({"steps": 4}, "schedule.local_steps was 2 and is 4"),
    "batch size": ({"batch_size": 8}, "data.batch_size was 16 and is 8"),
    "seed": ({"seed": 1}, "data.seed was 0 and is 1"),
    "dropout": ({"drop": 0.5}, r"Dropout\(p=0.1, inplace=False\).* and is '.*Dropout\(p=0.5"),
    "rate": ({"optimizer": sgd(0.2)}, "student.optimizer.0.lr was 0.1 and is 0.2"),
    "optimizer": (
        {"optimizer": lambda p: torch.optim.Adam(p, lr=0.1)},
        r"optimizer.class was 'torch.optim.sgd.SGD' and is 'torch.optim.adam.Adam'; .*; \d+ more; go on",
    ),
    "scheduler": ({"scheduler": decay}, "scheduler.class was None and is .torch.optim.lr_scheduler.Exp"),
    "scale": ({"scale": [1.0, 0.5]}, r"learning_rate_scale was '\[1.0, 1.0\]' and is '\[1.0, 0.5\]'"),
    "clip": ({"clip": 1.0}, "model.clip was None and is 1.0"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_run_does_not_go_on_as_another(tmp_path: Path, saved: Path, other: str) -> None:
    """The settings that differ are named, with both values, before anything trains."""
    changed, said = OTHERS[other]
    with pytest.raises(ConfigError, match=f"checkpoint is of a run with other settings: .*{said}"):
        go(tmp_path, saved, **changed)


SAME: dict[str, Callable[[Path], dict[str, Any]]] = {
    "length, and all as it was": lambda path: {"epochs": 3},
    "logger": lambda path: {"logger": CSVLogger(path)},
    "way to train": lambda path: {"vectorize": "always"},
    "transport": lambda path: {"transport": LocalTransport(serialise=True)},
}


@pytest.mark.parametrize("what", SAME)
def test_what_decides_nothing_may_change(tmp_path: Path, saved: Path, what: str) -> None:
    assert go(tmp_path, saved, **SAME[what](tmp_path)).current_epoch >= 2


class Asked(LocalTransport):
    """Notes the settings with which a process joins others, and refuses to go on."""

    def __init__(self) -> None:
        self.settings: Mapping[str, Any] = {}

    def join(self, facts: Any, awaited: Any = (), settings: Mapping[str, Any] | None = None) -> Any:
        self.settings = settings or {}
        raise ConfigError("enough")


def test_processes_of_a_network_compare_the_settings_of_their_cohorts_too() -> None:
    """Each of them, so that none trains beside others that train otherwise."""
    told = []
    changes: list[dict[str, Any]] = [{}, {"init": "own"}, {"clip": 1.0}, {"accumulate": 2}, {"head": "best"}]
    for changed in changes:
        transport = Asked()
        callback = DecentralizedCallback(None, FedAvg(), Star(), schedule(), transport)
        cohort = Cohort({"eyes": Fleet(Eye, 2)}, CLASSES, own=["eyes/0"], **changed)
        with pytest.raises(ConfigError, match="enough"):
            trainer(callback).fit(cohort, datamodule=TinyData(batch_size=16))
        told.append(transport.settings)
    for settings, changed in zip(told, changes, strict=True):
        different = {name for name in told[0] if told[0][name] != settings[name]}
        assert different == {f"model.{name}" for name in changed}
