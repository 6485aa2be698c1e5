"""Settings of a run that differ from their defaults, which are all that a report shows."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from lightning.pytorch import Trainer

from mmkd.callbacks.decentralized import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.schedule import Schedule

KINDS = {
    "model": Cohort,
    "decentralized": DecentralizedCallback,
    "decentralized.schedule": Schedule,
    "model.peers.*": Fleet,
    "trainer": Trainer,
}
"""Classes of the parts of a configuration that do not name their own."""


def changed(config: Mapping[str, Any], parts: Sequence[str] = ("decentralized", "model")) -> dict[str, Any]:
    """Settings by dotted name, without those left at their defaults.

    Args:
        config: of a whole run, as LightningCLI saves it.
        parts: keys of the configuration; those of the coordinator and of students if left out.
    """
    return {key: value for part in parts if part in config for key, value in _changed(config[part], part)}


def _changed(node: Any, key: str) -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(key, node if isinstance(node, int | float | str) else json.dumps(node))]
    parent = key.rpartition(".")[0]
    kind = KINDS.get(f"{parent}.*" if parent == "model.peers" else key)
    pairs: list[tuple[str, Any]] = []
    if "class_path" in node:
        pairs, kind = [(f"{key}.class_path", node["class_path"])], imported(node["class_path"])
        node, key = node.get("init_args") or {}, f"{key}.init_args"
    usual = defaults(kind) if kind is not None else {}
    for name, child in node.items():
        if name not in usual or usual[name] != child:
            pairs += _changed(child, f"{key}.{name}")
    return pairs


def imported(path: str) -> Any:
    """The class of an import path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def defaults(kind: Any) -> dict[str, Any]:
    """Default arguments of a class, those of its bases among them; or of a function."""
    bases = (
        [base for base in reversed(inspect.getmro(kind)) if base is not object]
        if inspect.isclass(kind)
        else []
    )
    calls = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [kind]
    found: dict[str, Any] = {}
    for call in calls:
        for name, parameter in inspect.signature(call).parameters.items():
            if parameter.default is not parameter.empty:
                default = parameter.default
                found[name] = list(default) if isinstance(default, tuple) else default
    return found
