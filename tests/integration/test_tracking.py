"""A run tracked by W&B without a login, read back out of its file with W&B's own tool."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from mmkd.__main__ import main

CONFIG = """
data: {class_path: tests.tiny.TinyData, init_args: {batch_size: 16}}
model:
  vectorize: always
  peers: {cameras: {count: 2, student: {class_path: tests.tiny.Eye}}}
decentralized:
  topology: {class_path: Star}
  knowledge: {class_path: SharedLogits, init_args: {temperature: 3.0}}
  schedule: {local_steps: 3, knowledge_every: 1}
trainer:
  accelerator: cpu
  max_epochs: 2
  logger: {class_path: mmkd.callbacks.tracking.Wandb}
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
"""


def test_numbers_come_back_out_of_the_run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(tmp_path),
        "WANDB_DIR": str(tmp_path),
        "WANDB_RUN_GROUP": "study",
        "WANDB_NAME": "kd",
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # or settings of an earlier run in this process would be kept
    assert main(["fit", "-c", str(tmp_path / "run.yaml"), f"--recorder.folder={tmp_path}"]) == 0
    wandb.finish()
    environment = dict(os.environ)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    records = subprocess.run(
        [*inspect, str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    summary = subprocess.run(
        [*inspect, "--summary", str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    read = json.loads(summary.stdout)
    assert read["config"]["decentralized.knowledge.init_args.temperature"] == 3.0
    assert not any(
        isinstance(value, dict) for name, value in read["config"].items() if not name.startswith("_")
    )
    started = next(
        r["run"] for line in records.stdout.splitlines() if (r := json.loads(line))["type"] == "run"
    )
    assert (started["run_group"], started["display_name"]) == ("study", "kd")
    lines = [json.loads(line) for line in records.stdout.splitlines()]
    tags = [tag for line in lines if line["type"] == "run" for tag in line["run"].get("tags", [])]
    assert {"SharedLogits", "Star", "image"} <= set(tags)
    axes = {
        r["metric"].get("glob_name") or r["metric"].get("name"): r["metric"]
        for r in lines
        if r["type"] == "metric"
    }
    assert axes["val/*"]["step_metric"] == "round"
    (table,) = (tmp_path / "wandb").rglob("media/table/peers*.json")
    held = json.loads(table.read_text())
    assert held["columns"] == ["peer", "modality", "student", "samples"]
    assert [row[:3] for row in held["data"]] == [[f"cameras/{i}", "image", "Eye"] for i in range(2)]
    assert read["summary"]["round"] == 1
    # What the recorder wrote beside the run is what W&B keeps.
    with (tmp_path / "curve.csv").open() as file:
        last = {row["peer"]: row for row in csv.DictReader(file)}
    for peer, row in last.items():
        kept = read["summary"][f"peer/{peer}/val/shared_accuracy"]
        assert abs(kept - float(row["shared_accuracy"])) < 1e-6
        assert f"peer/{peer}/train/loss" in read["summary"]
    # Six exchanges of 16 x 3 float32 logits, up and down, divided by as many peers.
    assert read["summary"]["ledger/bytes_per_peer"] == 6 * 2 * 16 * 3 * 4
