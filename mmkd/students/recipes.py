"""Recipes: the class and the arguments of a student, from which a checkpoint makes it again."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, TypedDict

from mmkd.students.base import Classifier
from mmkd.types import ConfigError


class Recipe(TypedDict):
    """The class and the arguments of a student, as a checkpoint keeps them."""

    module: str
    """In which the class is."""
    name: str
    """Of the class, in its module."""
    arguments: dict[str, Any] | None
    """Of its ``__init__``; nothing, if the student did not save all of them."""


def recipe_of(student: Classifier) -> Recipe:
    """The class of a student and the hyper-parameters that it saved, or ``None`` if it did not save all.

    A recipe does not have what a factory changed in a student after making it.
    """
    cls, kept = type(student), dict(student.hparams)
    taken = inspect.signature(cls).parameters.values()
    named = {p.name for p in taken if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    enough = named - {"optimizer", "scheduler"} <= kept.keys()
    return {"module": cls.__module__, "name": cls.__qualname__, "arguments": kept if enough else None}


def student_of(recipe: Recipe, instead: str) -> Classifier:
    """Make the student of a recipe, with random weights.

    Args:
        recipe: made by ``recipe_of``.
        instead: the argument of ``load_from_checkpoint`` that replaces the recipe, for the message.

    Raises:
        ConfigError: there is no such student here, or the recipe has no hyper-parameters.
    """
    name = f"{recipe['module']}.{recipe['name']}"
    try:
        made: Any = import_module(recipe["module"])
        for part in recipe["name"].split("."):
            made = getattr(made, part)
    except (ImportError, AttributeError):
        made = None
    # A checkpoint may come from anywhere, and the class that it names is called, so it must be a student.
    if not (isinstance(made, type) and issubclass(made, Classifier)):
        why = "there is no such student here"
    elif recipe["arguments"] is None:
        why = "it did not save all of its hyper-parameters"
    else:
        return made(**recipe["arguments"])
    raise ConfigError(
        f"the checkpoint cannot make {name} again: {why}; give load_from_checkpoint {instead} as well"
    )
