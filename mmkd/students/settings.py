"""Arguments of a student's constructor: those that its checkpoints keep, and those that have no effect."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from mmkd.students.adapting import Lora
from mmkd.students.normalising import Constants
from mmkd.types import ConfigError


def settings_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters out of the ``locals()`` with which an ``__init__`` begins, its ``kwargs`` among them.

    Handed to ``save_hyperparameters`` by value, because Lightning by itself would take the arguments of the
    cohort for the student's while a command line builds the cohort. Optimizer and scheduler
    are functions, which a checkpoint cannot hold; it holds others as plain settings.
    """
    left_out = {"self", "__class__", "kwargs", "optimizer", "scheduler"}
    given = {**arguments, **arguments.get("kwargs", {})}
    kept = {name: value for name, value in given.items() if name not in left_out}
    return {name: asdict(v) if isinstance(v, Lora | Constants) else v for name, v in kept.items()}


def refuse_unread(
    student: type, settings: Mapping[str, Any], names: Iterable[str], *, reader: str, given: str
) -> None:
    """Refuse settings that differ from their defaults although nothing reads them.

    Args:
        student: the class whose ``__init__`` has the defaults.
        settings: arguments of its ``__init__``, by name.
        names: of the settings that are not read.
        reader: the network that would read them, for the message.
        given: the network that was chosen instead, for the message.

    Raises:
        ConfigError: such a setting was given.
    """
    defaults = inspect.signature(student).parameters
    odd = [name for name in names if settings[name] != defaults[name].default]
    if odd:
        raise ConfigError(
            f"{student.__name__}: {', '.join(odd)} would have no effect with {given} (only {reader} has a use"
            " for it); remove one of the two"
        )
