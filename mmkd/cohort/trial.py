"""Students read a sample before anything trains: what they cannot read is one line that says whose it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins import Precision
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path, tree_map_only

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.chunks import out_of_memory
from mmkd.cohort.groups.reason import why
from mmkd.data.base import PeerData
from mmkd.data.padding import is_padded
from mmkd.data.samples import view_of
from mmkd.functional.random import keyed
from mmkd.students.base import Student
from mmkd.types import Batch, ConfigError, DivergedError, Padded, PeerName, Views

READ = (RuntimeError, IndexError, ValueError)
"""What torch raises where shapes, types or values do not fit."""
NO_TENSOR = (*READ, TypeError, AttributeError)
"""What a student raises, too, that takes tensors alone and is given ``Padded``."""


def check_data(data: PeerData | None, num_classes: int) -> None:
    """Refuse data that are not there, or have other classes than the students.

    Raises:
        ConfigError: they are such.
    """
    if data is None:
        raise ConfigError("a Cohort trains on a PeerDataModule: trainer.fit(cohort, datamodule=...)")
    if data.num_classes != num_classes:
        raise ConfigError(f"the students tell {num_classes} classes apart, the data have {data.num_classes}")


def try_students(
    groups: Sequence[Group], data: PeerData, accumulate: int, public: bool, precision: Precision
) -> None:
    """Let a copy of a student of each group read the first samples, for every shape and type that peers have.

    Args:
        groups: of students.
        data: hold the samples.
        accumulate: parts into which a local batch is cut.
        public: whether public samples are read, too.
        precision: in which students run.

    Raises:
        ConfigError: a student cannot read the samples of a peer, or no batch of one of them.
    """
    for group in groups:
        tried = set[Any]()
        for row, name in enumerate(group.names):
            reader = data.reader(name, "train")
            first = reader.batch(torch.arange(min(2, len(reader))), 0)
            least = data.least_batch(name, accumulate)
            kind = (made_of(first.x), least == 1)
            if kind in tried:
                continue
            tried.add(kind)
            student = copy.deepcopy(group.student(row))
            with precision.forward_context(), keyed(0, student.device):
                x = precision.convert_input(_moved(first.x, student))
                _predict(student, x, f"peer '{name}' cannot read its train samples")
                if least == 1:
                    one = _moved(reader.batch(torch.arange(1), 0), student)
                    _learn_from_one(student, precision.convert_input(one), name)
        if public:
            shared = data.public_reader("train")
            seen = shared.batch(torch.arange(min(2, len(shared))))
            view, _ = view_of(seen, data.peers[group.names[0]])
            if view is not None:
                student, whose = copy.deepcopy(group.student(0)), f"peer '{group.names[0]}'"
                with precision.forward_context(), keyed(0, student.device):
                    x = precision.convert_input(_moved(view, student))
                    _predict(student, x, f"{whose} cannot read the public samples")


def _moved(batch: Any, student: Student) -> Any:
    return tree_map_only(Tensor, lambda t: t.to(student.device), batch)


@torch.no_grad()
def _predict(student: Student, x: Views, what: str) -> None:
    errors = NO_TENSOR if is_padded(x) else READ
    try:
        student.eval().predict(x)
    except errors as error:
        raise _unreadable(what, x, error) from error


def _learn_from_one(student: Student, batch: Batch, name: PeerName) -> None:
    """Normalisation over a batch has no meaning for one sample, unless that has many places."""
    try:
        student.train().private_loss(batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"peer '{name}' learns from batches of one sample, over which its student cannot normalise: give"
            " it more samples (min_size of a partition) or another batch_size, set drop_last or a smaller"
            " model.accumulate, or normalise over groups"
        ) from error


@contextmanager
def learning(name: PeerName, x: Views) -> Iterator[None]:
    """Says whose samples they are from which a student cannot learn.

    Raises:
        ConfigError: a student cannot.
    """
    errors = NO_TENSOR if is_padded(x) else READ
    try:
        yield
    except errors as error:
        if isinstance(error, ConfigError) or (isinstance(error, RuntimeError) and out_of_memory(error)):
            raise
        what = f"the student of peer '{name}' cannot learn from its train samples"
        raise _unreadable(what, x, why(error)) from error


@contextmanager
def reading(names: Sequence[PeerName], split: str, x: Views, data: PeerData) -> Iterator[None]:
    """Says whose samples cannot be read, if they are made otherwise than those that students learn from.

    Raises:
        ConfigError: students cannot read them.
    """
    errors = NO_TENSOR if is_padded(x) else READ
    try:
        yield
    except errors as error:
        said = isinstance(error, ConfigError | DivergedError)
        said |= isinstance(error, RuntimeError) and out_of_memory(error)
        if not said and (isinstance(error, IndexError) or made_of(x) != _trained_on(data, names[0])):
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            what = f"peer '{names[0]}'{others} cannot read its {split} samples"
            raise _unreadable(what, x, error) from error
        raise


def made_of(x: Views) -> tuple[Any, ...]:
    """Shape and type of one sample; sequences that are ``Padded`` are of one shape whatever their length."""
    leaves, _ = tree_flatten_with_path(x, is_leaf=lambda part: isinstance(part, Padded))
    return tuple(
        (path, ("length",), leaf.values.dtype)
        if isinstance(leaf, Padded)
        else (path, tuple(map(str, leaf.shape[1:])), leaf.dtype)
        for path, leaf in leaves
    )


def _trained_on(data: PeerData, name: PeerName) -> tuple[Any, ...]:
    reader = data.reader(name, "train")
    return made_of(reader.batch(torch.arange(min(2, len(reader))), 0).x)


def _unreadable(what: str, x: Views, error: Exception | str) -> ConfigError:
    said = str(error).strip().partition("\n")[0]
    parts = [
        f"{''.join(map(str, path))} {str(dtype).removeprefix('torch.')} [{', '.join(shape)}]".strip()
        for path, shape, dtype in made_of(x)
    ]
    return ConfigError(f"{what}, of {', '.join(parts)} each: {said}; give what its student reads")
