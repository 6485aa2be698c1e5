"""The interface of steps of compression, and what all of them may ask of a student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import ClassVar, TypeAlias

from torch import Tensor, nn

from mmkd.students.base import Student
from mmkd.students.detection import DetectionStudent, as_floats
from mmkd.types import Classes, Views

Layer: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Linear
"""A layer that multiplies by a weight."""
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Layers whose weights are compressed."""
HEADS = ("main", "aux", "cls_logits", "bbox_reg", "bbox_ctrness")
"""Names of layers that give what a student says, so that their outputs stay as many as they are."""
Keep: TypeAlias = Callable[[Student], AbstractContextManager[object]]
"""What holds while a student learns, such as that zeros stay zeros."""


class Healing(ABC):
    """Lets a student learn in the middle of its compression."""

    student: Student
    """That is compressed, in place."""
    example: Views
    """Two of its samples."""
    kept: list[Keep]
    """What holds while it learns."""

    @abstractmethod
    def learn(self, steps: int) -> None:
        """Take so many local steps."""


class Step(ABC):
    """Something that makes a student smaller, in place."""

    heals: ClassVar[bool] = True
    """Whether it lets the student learn by itself, if nothing else says when."""

    @abstractmethod
    def __call__(self, healing: Healing, steps: int) -> None:
        """Compress the student.

        Args:
            healing: has the student, and lets it learn.
            steps: how many local steps are this one's to have taken.

        Raises:
            ConfigError: the student cannot be compressed so far, or in this way.
        """


def layers(student: Student, *, heads: bool) -> Iterator[tuple[str, Layer]]:
    """Layers with weights of a student by name, with those that give what it says or without."""
    for name, module in student.named_modules():
        if isinstance(module, LAYERS) and (heads or not is_head(name)):
            yield name, module


def is_head(name: str) -> bool:
    """Whether a layer of that name gives what a student says."""
    return any(part in HEADS for part in name.split("."))


def said(student: Student, x: Views) -> list[Tensor]:
    """What a student says of samples before anything is chosen among it, which has gradients."""
    if isinstance(student, DetectionStudent):
        heads: dict[str, Tensor] = student.detector.outputs(as_floats(x)).head
        return [*heads.values()]
    found = student.predict(x)
    if isinstance(found, Classes):  # an embedding may become smaller
        return [found.logits, *found.auxiliary]
    return [*found]


def parameters(student: Student) -> int:
    """How many numbers a student has learned."""
    return sum(p.numel() for p in student.parameters())
