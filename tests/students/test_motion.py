"""Students of motion: which sensor they read is said by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from mmkd.students import FusionStudent, MotionStudent
from mmkd.types import ConfigError


def test_a_student_names_its_modality() -> None:
    assert MotionStudent(3).modalities == ("motion",)
    named = MotionStudent(3, modality="rotation", channels=3)
    assert named.modalities == ("rotation",)
    both = FusionStudent(
        3, encoders={m: lambda n, m=m: MotionStudent(n, modality=m) for m in ("acceleration", "rotation")}
    )
    assert both.modalities == ("acceleration", "rotation")


@pytest.mark.parametrize("name", ["", "acceleration+rotation"])
def test_one_modality_has_one_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"reads one modality, not .*a FusionStudent reads several"):
        MotionStudent(3, modality=name)


def test_a_checkpoint_keeps_the_modality(tmp_path: Path) -> None:
    student = MotionStudent(3, modality="rotation", channels=3, width=4)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(student)
    trainer.save_checkpoint(tmp_path / "s.ckpt")
    loaded = MotionStudent.load_from_checkpoint(tmp_path / "s.ckpt", weights_only=True)
    assert loaded.modalities == ("rotation",)
    x = torch.randn(2, 3, 16)
    assert torch.equal(loaded.embed(x), student.embed(x))
