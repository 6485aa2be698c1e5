"""What the shipped files about cameras begin with, small: two days would do, but three have all splits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from datamodules import parking
from mmkd.students import DetectionStudent

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def car_park(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which ``scripts/cameras.py`` might have run, but for the training."""
    folder = tmp_path_factory.mktemp("car_park")
    out = folder / "results" / "cameras"
    parking.render(out / "scenes", parking.car_park(days=3, frames_per_day=4))
    for name, file in (("student", "cameras"), ("weak", "oracle_weak"), ("strong", "oracle_strong")):
        peers = yaml.safe_load((ROOT / "configs" / "peers" / f"{file}.yaml").read_text())["model"]["peers"]
        arguments = peers["cameras"]["student"]["init_args"]
        student = DetectionStudent(1, detector=arguments["detector"], settings=arguments["settings"])
        torch.save({"state_dict": student.state_dict()}, out / f"{name}.ckpt")
    return folder
