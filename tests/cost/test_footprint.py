"""What a sample costs a student: memory is counted, so it is known by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmkd.cost.footprint import footprint, step_footprint
from mmkd.students import Classifier
from mmkd.types import Batch, Predictions

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


def sgd(momentum: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """An optimizer without intermediate results of its own."""
    return lambda parameters: torch.optim.SGD(
        parameters, lr=0.1, momentum=momentum, foreach=False, fused=False
    )


def test_a_local_step_holds_weights_gradients_and_states() -> None:
    """Those of SGD; momentum is one number more a parameter. Activations of one sample are a thousandth of them."""
    batch, held = Batch(torch.randn(1, FEATURES), torch.zeros(1, dtype=torch.long), torch.arange(1), 0), []
    for momentum in (0.0, 0.9):
        student, threads = Chain(), torch.get_num_threads()
        student._optimizer = sgd(momentum)
        before = student.main.weight.clone()
        found = step_footprint(student, batch)
        assert torch.equal(student.main.weight, before)  # a copy took the steps
        assert torch.get_num_threads() == threads
        assert found.milliseconds > 0
        held.append(found.mebibytes * MEBI)
    numbers = 4 * found.parameters
    assert abs(held[0] - 2 * numbers) < 0.02 * numbers
    assert abs(held[1] - held[0] - numbers) < 0.02 * numbers
