"""How a student is made again, in words that a checkpoint can hold."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mmkd.students.base import Classifier
from mmkd.types import ConfigError


def recipe_of(student: Classifier) -> dict[str, Any]:
    """The class of a student and the hyper-parameters that it kept; ``None`` in their place if too few.

    What a factory changed in a student after it was made is not in a recipe.
    """
    cls, kept = type(student), dict(student.hparams)
    taken = inspect.signature(cls).parameters.values()
    named = {p.name for p in taken if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    enough = named - {"optimizer", "scheduler"} <= kept.keys()
    return {"module": cls.__module__, "name": cls.__qualname__, "arguments": kept if enough else None}


def student_of(recipe: Mapping[str, Any], instead: str) -> Classifier:
    """The student that a recipe describes, with weights of its own.

    Args:
        recipe: made by ``recipe_of``.
        instead: what to give to ``load_from_checkpoint`` where a recipe does not do, for the message.

    Raises:
        ConfigError: there is no such student here, or the recipe has no hyper-parameters.
    """
    name = f"{recipe['module']}.{recipe['name']}"
    try:
        found: Any = import_module(recipe["module"])
        for part in recipe["name"].split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        found = None
    # A checkpoint may come from anywhere, and what it names is called: nothing but a student will do.
    if not (isinstance(found, type) and issubclass(found, Classifier)):
        why = "there is no such student here"
    elif recipe["arguments"] is None:
        why = "it did not save all of its hyper-parameters"
    else:
        return found(**recipe["arguments"])
    raise ConfigError(
        f"the checkpoint cannot make {name} again: {why}; give load_from_checkpoint {instead} as well"
    )
