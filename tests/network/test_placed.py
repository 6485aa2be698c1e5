"""Networks on a Ray cluster of this machine's own: processes are one, and those that are killed come back."""

from __future__ import annotations

import csv
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmkd.callbacks.round_checkpoints import RoundCheckpoints, found, path_of
from mmkd.cli import MmkdCLI
from mmkd.ledger import JOINING
from tests.launch.test_studies import holder, living, start, wait
from tests.transport.test_zenoh import free_ports

pytest.importorskip("ray")
pytest.importorskip("zenoh")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks the kernel who is alive"),
]
ROUNDS = 6
SCHEDULE = {"local_steps": 2, "rounds_per_epoch": 2}
METHODS: dict[str, dict[str, Any]] = {
    "MHD": {
        "topology": {"class_path": "Complete"},
        "knowledge": {"class_path": "MultiHeadDistillation", "init_args": {"teachers": 1}},
        "schedule": {**SCHEDULE, "knowledge_every": 1},
    },
    "FedAvg": {
        "topology": {"class_path": "Star"},
        "aggregation": {"class_path": "FedAvg", "init_args": {"among": "modality"}},
        "schedule": SCHEDULE,
    },
    "SCAFFOLD": {
        "topology": {"class_path": "Star"},
        "aggregation": {"class_path": "Scaffold", "init_args": {"among": "modality"}},
        "schedule": SCHEDULE,
    },
    "gossip": {
        "topology": {"class_path": "Ring"},
        "aggregation": {"class_path": "Gossip", "init_args": {"among": "modality"}},
        "schedule": SCHEDULE,
    },
    "hybrid": {
        "topology": {"class_path": "Star"},
        "knowledge": {"class_path": "SharedLogits", "init_args": {"samples": "all"}},
        "aggregation": {"class_path": "FedAvg", "init_args": {"among": "modality"}},
        "schedule": {**SCHEDULE, "knowledge_every": 2},
    },
}


def configuration(folder: Path, method: str, epochs: int = ROUNDS // 2) -> Path:
    """The file of a network with two peers of each of two modalities; a process holds one of either."""
    fleets = {
        # Names in this order, so that modalities are divided among processes.
        name: {"count": 1, "student": {"class_path": f"tests.tiny.{student}", "init_args": {"heads": 2}}}
        for name, student in (("a", "Eye"), ("b", "Ear"), ("c", "Eye"), ("d", "Ear"))
    }
    content = {
        "data": {"class_path": "tests.tiny.TinyData", "init_args": {"batch_size": 8}},
        "model": {"vectorize": "never", "peers": fleets},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": epochs,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        },
        "decentralized": METHODS[method],
    }
    path = folder / "network.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def alone(file: Path, folder: Path) -> None:
    """All peers in this process."""
    checkpoints = RoundCheckpoints(folder / "checkpoints")
    cli = MmkdCLI(
        [f"--config={file}", f"--recorder.folder={folder}"],
        run=False,
        callbacks=[checkpoints],
        default_root_dir=str(folder),
        enable_checkpointing=True,
    )
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The last weights of a process."""
    last = max(found(folder / "checkpoints"))
    state = torch.load(path_of(folder / "checkpoints", last), weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def entries(folder: Path) -> Counter[tuple[str, ...]]:
    """Bytes by round, sender, receiver, direction and kind, but for what joining costs."""
    sums: Counter[tuple[str, ...]] = Counter()
    for row in csv.DictReader((folder / "ledger.csv").read_text().splitlines()):
        if row["kind"] != JOINING:
            sums[tuple(value for name, value in row.items() if name != "bytes")] += int(row["bytes"])
    return sums


def check(one: Path, two: Path) -> None:
    """Two processes have ended as one: the same bits, and ledgers that add up to its."""
    whole, parts = weights(one), [weights(two / str(i)) for i in range(2)]
    peers = [{re.search(r"[a-d]/0", name)[0] for name in part} for part in parts]  # type: ignore[index]
    assert peers == [{"a/0", "b/0"}, {"c/0", "d/0"}]
    assert parts[0].keys() | parts[1].keys() == whole.keys()
    for name, value in (parts[0] | parts[1]).items():
        assert torch.equal(value, whole[name]), name
    assert entries(one).total() > 0
    assert entries(two / "0") + entries(two / "1") == entries(one)


def launch(file: Path, folder: Path) -> Any:
    port = min(free_ports(2)) - 1
    options = ["--processes", "2", "--port", str(port), "--study", "test"]
    return start("launch", "--engine", "ray", "-c", str(file), "--folder", str(folder), *options)


@pytest.mark.parametrize("method", METHODS)
def test_two_actors_are_one_process(method: str, tmp_path: Path) -> None:
    file = configuration(tmp_path, method)
    said, _ = (command := launch(file, tmp_path / "two")).communicate(timeout=300)
    assert command.returncode == 0, said
    assert "again after" not in said
    alone(file, tmp_path / "one")
    check(tmp_path / "one", tmp_path / "two")


def test_an_actor_that_is_killed_comes_back(tmp_path: Path) -> None:
    """In the middle of training; the others begin again with it, at once, where all have saved."""
    file = configuration(tmp_path, "SCAFFOLD", epochs=60)
    command = launch(file, tmp_path / "two")
    alive = living(command)
    wait(lambda: max(found(tmp_path / "two" / "1" / "checkpoints"), default=0) > 2, 120, command)
    os.kill(wait(lambda: holder(tmp_path / "two" / "1"), 10, command), signal.SIGKILL)
    said, _ = command.communicate(timeout=300)
    assert command.returncode == 0, said
    assert "mmkd: process 1 has died (ActorDiedError); all begin again after the last round" in said
    assert "mmkd: all go on after round" in said
    wait(lambda: not alive(), 20)
    alone(file, tmp_path / "one")
    check(tmp_path / "one", tmp_path / "two")
