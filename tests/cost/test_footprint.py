"""What a sample costs a student: memory is counted, so it is known by hand."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmkd.cost.footprint import footprint
from mmkd.students import Classifier
from mmkd.types import Predictions

FEATURES, WIDTH, CLASSES = 1024, 4096, 2
MEBI = 2**20


class Chain(Classifier):
    """Three layers in a row, of which two results are held at a time."""

    modalities = ("vector",)
    calls: ClassVar[list[tuple[int, int, bool]]] = []

    def __init__(self) -> None:
        super().__init__(CLASSES, dim=WIDTH)
        self.first = nn.Linear(FEATURES, WIDTH)

    def embed(self, x: Tensor) -> Tensor:
        return self.first(x).relu().tanh()

    def predict(self, x: Tensor) -> Predictions:
        self.calls.append((len(x), torch.get_num_threads(), self.training))
        return super().predict(x)


def test_weights_and_the_most_that_is_held_at_once() -> None:
    """A result of a layer is gone once the next but one is there."""
    student = Chain()
    found = footprint(student, torch.randn(5, FEATURES))
    parameters = (FEATURES + 1) * WIDTH + (WIDTH + 1) * CLASSES
    assert found.parameters == parameters
    weights = 4 * (parameters + CLASSES)  # the label prior is a buffer
    assert found.mebibytes * MEBI - weights == 4 * 2 * WIDTH
    assert found.milliseconds > 0


def test_one_sample_on_one_core_and_everything_as_it_was() -> None:
    student, threads = Chain().train(), torch.get_num_threads()
    Chain.calls.clear()
    footprint(student, torch.randn(5, FEATURES))
    assert set(Chain.calls) == {(1, 1, False)}
    assert student.training
    assert torch.get_num_threads() == threads


def test_where_tensors_are_not_followed() -> None:
    """Lightning tests in inference mode."""
    with torch.inference_mode():
        x = torch.randn(2, FEATURES)
        assert footprint(Chain(), x).parameters
