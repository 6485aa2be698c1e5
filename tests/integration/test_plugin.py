"""A new modality as a user would add one: a datamodule and a student in a file of their own, a YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RADAR = """
import torch
from torch import nn

from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.students import Classifier


class Echoes(PeerDataModule):
    num_classes = 2
    modalities = ("radar",)

    def make(self, part, size):
        stream = torch.Generator().manual_seed(1000 * self.seed + part)
        y = torch.randint(2, (size,), generator=stream)
        return Samples(torch.randn(size, 6, generator=stream) + 2.0 * y[:, None], y)

    def private(self, peer, split):
        if split == "train":
            return self.make(list(self.peers).index(peer), 64)
        return self.make(100 if split == "val" else 101, 50)

    def public(self, split):
        return PublicSamples({"radar": self.make(102, 40).x})


class RadarStudent(Classifier):
    modalities = ("radar",)

    def __init__(self, num_classes, *, dim=8, **kwargs):
        super().__init__(num_classes, dim=dim, **kwargs)
        self.encoder = nn.Sequential(nn.Linear(6, dim), nn.ReLU())

    def embed(self, x):
        return self.encoder(x)
"""

CONFIG = """
data: {class_path: datamodules.radar.Echoes, init_args: {batch_size: 16}}
model:
  peers:
    ships: {count: 3, student: {class_path: datamodules.radar.RadarStudent, init_args: {dim: 12}}}
decentralized:
  topology: {class_path: Ring}
  knowledge: {class_path: SharedLogits}
  schedule: {local_steps: 8, knowledge_every: 1}
trainer: {accelerator: cpu, max_epochs: 12, logger: false, enable_progress_bar: false}
"""


def test_a_new_modality_needs_one_file_and_one_yaml(tmp_path: Path) -> None:
    (tmp_path / "datamodules").mkdir()
    (tmp_path / "datamodules" / "radar.py").write_text(RADAR)
    (tmp_path / "radar.yaml").write_text(CONFIG)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mmkd",
        "fit",
        "-c",
        "radar.yaml",
        "--recorder.folder=out",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = (tmp_path / "out" / "curve.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    # Two Gaussians 2 * sqrt(6) = 4.9 standard deviations apart: the best rule errs below 1 %.
    assert float(last["shared_accuracy"]) > 0.9
    # Twelve rounds of eight steps: three peers on a ring hear two each, 16 samples of 2 float32 logits.
    assert float(last["bytes_per_peer"]) == 12 * 8 * 2 * 16 * 2 * 4
    assert last["modality"] == "radar"
