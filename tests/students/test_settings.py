"""Settings of students: those of a base class are written once, and reach configurations and checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from mmkd.students import (
    AudioStudent,
    Classifier,
    DetectionStudent,
    FusionStudent,
    MotionStudent,
    Student,
    TextStudent,
    VisionStudent,
)
from mmkd.students.settings import settings_of

CLASSIFIERS: list[type[Student]] = [VisionStudent, AudioStudent, TextStudent, MotionStudent, FusionStudent]


def parser() -> ArgumentParser:
    """Of a fleet's recipe, as the command line has it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--student", type=Callable[[int], Student])
    return parser


@pytest.mark.parametrize("cls", [*CLASSIFIERS, DetectionStudent])
def test_a_configuration_may_name_what_every_student_takes(cls: type[Student]) -> None:
    arguments = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}}
    if issubclass(cls, Classifier):
        arguments |= {"heads": 2, "prior_correction": 0.5}
    if cls is FusionStudent:
        arguments["encoders"] = {
            "image": {"class_path": "VisionStudent", "init_args": {"prior_correction": 0.25}}
        }
    parsed = parser().parse_object({"student": {"class_path": cls.__name__, "init_args": arguments}})
    optimizer = parsed.student.init_args.optimizer
    assert (optimizer.class_path, optimizer.init_args.lr) == ("torch.optim.SGD", 0.5)
    assert parsed.student.init_args.scheduler is None
    if issubclass(cls, Classifier):
        assert (parsed.student.init_args.heads, parsed.student.init_args.prior_correction) == (2, 0.5)


@pytest.mark.parametrize("name", ["haeds", "dim"])
def test_a_configuration_may_not_name_what_no_student_takes(name: str) -> None:
    """Nor what a student gives to its base class itself: the size of its embedding follows from its network."""
    with pytest.raises(ArgumentError, match=f"'{name}' is not accepted"):
        parser().parse_object({"student": {"class_path": "VisionStudent", "init_args": {name: 2}}})
    with pytest.raises(TypeError, match=name):
        VisionStudent(3, **{name: 2})


def test_a_checkpoint_keeps_what_was_given_and_no_function() -> None:
    def init(self: object, num_classes: int, *, width: int = 4, **kwargs: object) -> dict[str, object]:
        return settings_of(locals())

    kept = init(None, 3, heads=2, optimizer=print, scheduler=None)
    assert kept == {"num_classes": 3, "width": 4, "heads": 2}
