"""A wrong shape is refused where it crosses from one room to another, so the hook is on."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.func import vmap

from mmkd.cohort.coordinator import Lesson
from mmkd.cohort.losses import Losses
from mmkd.data.samples import Samples
from mmkd.schedule import Schedule
from mmkd.students import TextStudent, VisionStudent
from mmkd.transport.base import Stack
from mmkd.types import Batches, Classes, Target
from tests import shapes

WORDS = torch.ones(2, 4, dtype=torch.long)


def two_losses_of_one_peer() -> None:
    Losses(Schedule().timetable({"eyes/0": 1})).add(0, ["eyes/0"], torch.zeros(1, 2), 8)


WRONG = {
    "cohort: a row of losses for each peer": two_losses_of_one_peer,
    "cohort: a lesson for fewer rows than keep something": lambda: Lesson(torch.ones(3), torch.ones(2), []),
    "students: images without channels": lambda: VisionStudent(3).embed(torch.zeros(2, 8, 8)),
    "students: images for a reader of text": lambda: TextStudent(3).embed(torch.zeros(2, 1, 8, 8)),
    "students: logits of another batch": lambda: Classes(
        torch.zeros(2, 3), torch.zeros(0, 2, 3), torch.zeros(4, 8)
    ),
    "data: places in a table": lambda: Samples(WORDS, WORDS[:, 0]).take(torch.zeros(1, 1, dtype=torch.long)),
    "types: weights of other samples": lambda: Target(torch.zeros(5, 2, 3), torch.zeros(5, 3)),
    "types: a batch of one peer": lambda: Batches(["eyes/0"], WORDS, WORDS[:, 0], WORDS[:, 0], [0]),
    "transport: no row": lambda: Stack(["eyes/0"], {"main": torch.tensor(0.0)}, ["eyes/1"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_shape_is_refused(wrong):
    with pytest.raises(TypeCheckError):
        WRONG[wrong]()


def test_what_is_vectorised_has_its_own_shape_inside_and_a_peer_axis_outside():
    def predict(x: torch.Tensor) -> Classes:
        return Classes(x, x[None], x)

    assert vmap(predict)(torch.zeros(4, 2, 3)).auxiliary.shape == (4, 1, 2, 3)


def test_what_names_no_shape_is_called_as_it_is():
    assert not getattr(Losses.add.__wrapped__, "__no_type_check__", False)
    assert Losses.settle.__wrapped__.__no_type_check__


def test_the_first_calls_of_a_function_are_checked_in_every_test():
    values = torch.zeros(5, 2, 3)
    for _ in range(shapes.LOOKS):
        Target(values, values[..., 0])

    Target(values, values[:, 0])
    shapes.anew()
    with pytest.raises(TypeCheckError):
        Target(values, values[:, 0])
