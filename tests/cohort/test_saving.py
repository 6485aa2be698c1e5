"""A peer's student in a file of its own."""

from __future__ import annotations

from typing import Any

import torch

from mmkd.cohort import Cohort
from tests.tiny import CLASSES, Eye, fit, fleets


def test_saved_student_loads_as_its_own_class(tmp_path: Any) -> None:
    cohort = Cohort(fleets(dim=20), CLASSES, vectorize="always")
    fit(cohort, max_epochs=1)
    cohort.save_student("cameras/1", tmp_path / "camera.ckpt")
    loaded = Eye.load_from_checkpoint(tmp_path / "camera.ckpt")
    there = cohort.student("cameras/1").state_dict()
    assert loaded.state_dict().keys() == there.keys()
    assert all(torch.equal(tensor, there[n]) for n, tensor in loaded.state_dict().items())
