"""Misspelt keys of a run, found before anything is imported that takes seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from mmkd.configuration import read_yaml
from mmkd.errors import ConfigError
from mmkd.names import near

RUNS = ("fit", "validate", "test", "predict")
"""Commands whose arguments LightningCLI reads."""
COMMANDS = (
    *RUNS,
    "new",
    "data",
    "tradeoff",
    "tune",
    "report",
    "peer",
    "network",
    "launch",
    "compress",
    "export",
    "offload",
    "serve",
)
"""All commands."""
TOP = (
    *("config", "seed_everything", "trainer", "model", "data", "decentralized", "recorder"),
    *("ckpt_path", "weights_only", "verbose", "return_predictions", "print_config", "help"),
)
"""Keys of a configuration of any run."""
ANY = ("help", "class_path", "init_args", "dict_kwargs")
"""Keys that jsonargparse takes where there may be a subclass."""
HERE = Path(__file__).parent
"""Where the source of this package is."""
MEANT = {
    "model": (HERE / "cohort" / "cohort.py", "Cohort"),
    "decentralized": (HERE / "callbacks" / "decentralized.py", "DecentralizedCallback"),
    "decentralized.schedule": (HERE / "schedule.py", "Schedule"),
    "recorder": (HERE / "callbacks" / "recorder.py", "Recorder"),
    "fleet": (HERE / "cohort" / "fleet.py", "Fleet"),
}
"""File and class whose arguments the keys below a key are; ``fleet`` stands for every fleet."""


def mistake(arguments: Sequence[str]) -> str | None:
    """What is wrong with a command line that shows at once, in one line; None if it may be right.

    Keys are compared with the arguments in the source of the classes that they are for, which is read and
    not run. What is below (classes that a configuration names, and all values) is LightningCLI's to check.
    """
    command, *rest = arguments
    if command not in RUNS:
        known = command in COMMANDS or command.startswith("-")
        return None if known else f"there is no command '{command}'{near(command, COMMANDS)}"
    for where, keys in _keys(rest):
        if isinstance(keys, str):
            return keys if keys.startswith(where) else f"{where}: {keys}"
        for path in keys:
            if (wrong := _wrong(path)) is not None:
                return f"{where}: {wrong}"
    return None


def _keys(arguments: Sequence[str]) -> Iterator[tuple[str, list[list[str]] | str]]:
    """Every file or option, and the paths of its keys; or what is wrong with it."""
    rest = iter(arguments)
    for argument in rest:
        name, _, value = argument.partition("=")
        if name in ("-c", "--config"):
            given = value or next(rest, "")
            yield given, _in_file(given) if given and "://" not in given else []
        elif name.startswith("--"):
            yield name, [name[2:].removesuffix("+").split(".")]


def _in_file(given: str) -> list[list[str]] | str:
    """The paths of the keys of a configuration file, or of a configuration that stands in its place."""
    path = Path(given).expanduser()
    try:
        content = read_yaml(path) if "\n" not in given and path.is_file() else yaml.safe_load(given)
    except ConfigError as error:
        return str(error)
    except yaml.YAMLError as error:
        return f"this is no configuration: {' '.join(str(error).split())}"
    if content is None:
        return []
    if not isinstance(content, Mapping):
        return "this is no configuration, for it has no keys" if path.is_file() else "there is no such file"
    return list(_paths(content, 4))


def _paths(tree: Mapping[str, Any], depth: int) -> Iterator[list[str]]:
    for name, below in tree.items():
        yield [str(name)]
        if depth > 1 and isinstance(below, Mapping):
            yield from ([str(name), *path] for path in _paths(below, depth - 1))


def _wrong(path: list[str]) -> str | None:
    """What is wrong with the last key of a path, or of what leads there."""
    for depth, name in enumerate(path):
        owner, names = _known(path[:depth])
        if names and name not in (*names, *ANY):
            return f"{owner} has no setting '{name}'{near(name, names)}"
    return None


def _known(above: list[str]) -> tuple[str, list[str]]:
    """Whose keys stand below a path, and their names; none where that is not known here."""
    if not above:
        return "a run", list(TOP)
    if above[:2] == ["model", "peers"] and len(above) == 3:
        return f"fleet '{above[2]}'", _arguments(*MEANT["fleet"])
    if above == ["trainer"]:
        lightning = find_spec("lightning")
        folder = Path((lightning and lightning.origin) or "").parent
        return "trainer", _arguments(folder / "pytorch" / "trainer" / "trainer.py", "Trainer")
    key = ".".join(above)
    return key, _arguments(*MEANT[key]) if key in MEANT else []


@cache
def _arguments(path: Path, name: str) -> list[str]:
    """Arguments of a class's ``__init__``, or fields of a dataclass, as its source has them."""
    tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    return [a.arg for a in (*part.args.args[1:], *part.args.kwonlyargs)]
            return [
                str(p.target.id)
                for p in node.body
                if isinstance(p, ast.AnnAssign) and isinstance(p.target, ast.Name)
            ]
    return []
