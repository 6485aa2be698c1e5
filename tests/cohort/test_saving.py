"""A peer's student in a file of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmkd.cohort import Cohort, Fleet
from tests.tiny import CLASSES, Eye, Nose, fit, fleets


class Forgetful(Nose):
    """Does not save what it was made with."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__(num_classes, dim=width)
        self._hparams = type(self._hparams)()


def test_saved_student_loads_as_its_own_class(tmp_path: Any) -> None:
    cohort = Cohort(fleets(dim=20), CLASSES, vectorize="always")
    fit(cohort, max_epochs=1)
    cohort.save_student("cameras/1", tmp_path / "camera.ckpt")
    loaded = Eye.load_from_checkpoint(tmp_path / "camera.ckpt")
    there = cohort.student("cameras/1").state_dict()
    assert loaded.state_dict().keys() == there.keys()
    assert all(torch.equal(tensor, there[n]) for n, tensor in loaded.state_dict().items())


def test_who_does_not_save_what_it_was_made_with_is_warned(tmp_path: Any) -> None:
    cohort = Cohort({"noses": Fleet(Forgetful)}, CLASSES)
    said = r"Forgetful does not save num_classes, .*call self.save_hyperparameters\(\) in its __init__"
    with pytest.warns(UserWarning, match=said):
        cohort.save_student("noses/0", tmp_path / "nose.ckpt")
