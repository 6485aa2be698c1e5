"""A fleet: a student recipe and how many peers it makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch.nn.parameter import is_lazy

from mmkd.bounds import AtLeastZero, Size, bounded
from mmkd.evaluation.accuracy import Head
from mmkd.functional.random import key, keyed
from mmkd.students.base import Classifier, Student
from mmkd.types import ConfigError, PeerName


@bounded
@dataclass
class Fleet:
    """One entry of ``model.peers``.

    Args:
        student: makes a student from the data's number of classes.
        count: how many peers; they are called ``fleet/0``, ``fleet/1``, ...
        ids: keys of the peers' random streams, one each; their names if left out. Renaming a peer that keeps
            its id changes no number.
        learning_rate_scale: multiplies the student's learning rates; one number, or one a peer.
    """

    student: Callable[[int], Student]
    count: Size = 1
    ids: list[str] | None = None
    learning_rate_scale: AtLeastZero | list[AtLeastZero] = 1.0

    def peers(self, name: str) -> dict[PeerName, str]:
        """Names and ids of the peers of the fleet called ``name``.

        Raises:
            ConfigError: ``ids`` or rates are not one a peer.
        """
        for what, given in (("ids", self.ids), ("learning_rate_scale", self.learning_rate_scale)):
            if isinstance(given, list) and len(given) != self.count:
                raise ConfigError(f"fleet '{name}' has {self.count} peers but {len(given)} {what}")
        names = [f"{name}/{i}" for i in range(self.count)]
        return dict(zip(names, self.ids or names, strict=True))

    def scales(self) -> list[float]:
        """Learning-rate scale of each peer."""
        rates = self.learning_rate_scale
        return rates if isinstance(rates, list) else [rates] * self.count

    def build(self, num_classes: int, seed: int, draw: str) -> Student:
        """A student whose initial weights are drawn from the stream named ``draw``."""
        with keyed(key(seed, "init", draw)):
            return self.student(num_classes)


class Member(NamedTuple):
    """A peer as the configuration describes it."""

    fleet: str
    name: PeerName
    id: str
    scale: float  # of its learning rates


def canonical(fleets: Mapping[str, Fleet]) -> list[Member]:
    """Every peer, ordered by id.

    So the order in which a configuration lists its fleets changes nothing, not even rounding.

    Raises:
        ConfigError: there is no peer, or two peers share an id.
    """
    rows = [
        Member(fleet, name, ident, scale)
        for fleet, recipe in fleets.items()
        for (name, ident), scale in zip(recipe.peers(fleet).items(), recipe.scales(), strict=True)
    ]
    if not rows:
        raise ConfigError("model.peers is empty; a cohort needs at least one fleet")
    twice = sorted(ident for ident, count in Counter(row.id for row in rows).items() if count > 1)
    if twice:
        raise ConfigError(f"two peers share the id {', '.join(twice)}")
    return sorted(rows, key=lambda row: row.id)


def check_student(student: Student, name: PeerName, num_classes: int) -> None:
    """Refuse a student that names no modality, has another number of classes than the data, or is lazy."""
    if not getattr(student, "modalities", None):
        raise ConfigError(
            f"the student of '{name}' names no modalities; set {type(student).__name__}.modalities"
        )
    for tensor, p in [*student.named_parameters(), *student.named_buffers()]:
        if is_lazy(p):
            raise ConfigError(
                f"'{tensor}' in the student of '{name}' is of a lazy layer, and peers need shapes before they"
                f" read: let {type(student).__name__} say the input size of '{tensor.rpartition('.')[0]}'"
            )
    own = getattr(student, "num_classes", num_classes)
    if own != num_classes:
        raise ConfigError(
            f"the student of '{name}' tells {own} classes apart, the data have {num_classes}; leave"
            " num_classes out of its init_args, it is linked to the data"
        )


def check_head(head: Head, students: Sequence[Student]) -> None:
    """Refuse to evaluate the last auxiliary head of students that have none."""
    if head == "last" and all(isinstance(student, Classifier) and not student.aux for student in students):
        raise ConfigError(
            "model.head is 'last', and no student has an auxiliary head: set heads of the students, or leave"
            " model.head out"
        )
