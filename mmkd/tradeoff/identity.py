"""The identity of a run: what it is made of, by which a result is known to be still true."""

from __future__ import annotations

import ast
import inspect
import json
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import mmkd

PARTS = ("data", "decentralized", "model", "trainer")
"""Parts of a configuration that decide about the numbers of a run."""
WITHOUT_EFFECT = (
    *("trainer.default_root_dir", "trainer.enable_", "trainer.log_every_n_steps", "trainer.logger"),
    *("trainer.profiler", "data.init_args.num_workers", "data.init_args.seed", "model.seed"),
)
"""Beginnings of settings that change no number, and of those that follow from the seed."""
MANY = 6
"""Differences of a run that are told; of more, their number."""


class Identity(NamedTuple):
    """What a run is made of.

    Texts, comments and names of configuration files are no part of it, nor is a setting at its default.
    """

    settings: dict[str, Any]  # by dotted name
    code: dict[str, dict[str, str]]  # by class that the configuration names: a hash of each of its modules
    mmkd: str  # its version

    def with_seed(self, seed: int) -> Identity:
        """The identity of one run of a method whose runs differ by their seeds."""
        return self._replace(settings=self.settings | {"seed_everything": seed})


def identity(config: Mapping[str, Any]) -> Identity:
    """What a run is made of but for its seed.

    Args:
        config: of the run, as LightningCLI saves it.
    """
    from mmkd.tradeoff.settings import changed  # imports Lightning, which takes seconds

    settings = {
        key: value for key, value in changed(config, PARTS).items() if not key.startswith(WITHOUT_EFFECT)
    }
    parts = {part: config[part] for part in PARTS if part in config}
    return Identity(
        settings, {path: found for path in class_paths(parts) if (found := code(path))}, mmkd.__version__
    )


def digest(content: Any) -> str:
    """A hash of what can be JSON, whatever the order of its keys."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def class_paths(node: Any) -> Iterator[str]:
    """The import paths of all classes that a configuration names."""
    for name, child in node.items() if isinstance(node, dict) else enumerate(node):
        if name == "class_path":
            yield child
        elif isinstance(child, dict | list):
            yield from class_paths(child)


def code(path: str) -> dict[str, str]:
    """Hashes of the modules of a class and of its bases, of those that are not in an installed library.

    Comments, docstrings and the layout of the source do not count, nor does what the modules import.
    """
    from mmkd.tradeoff.settings import imported

    found, named = {}, imported(path)
    for base in inspect.getmro(named) if inspect.isclass(named) else (named,):
        file = getattr(sys.modules.get(base.__module__), "__file__", None)
        if file is not None and not _installed(file):
            found[base.__module__] = _fingerprint(file, os.stat(file).st_mtime_ns)
    return found


def differences(old: Identity, new: Identity) -> list[str]:
    """How two runs differ, in words: a few of the settings with both values, and classes with their files."""
    said: list[str] = []
    keys = [k for k in sorted({*old.settings, *new.settings}) if old.settings.get(k) != new.settings.get(k)]
    # Another class has other arguments, which are not worth a word.
    others = [f"{key.removesuffix('class_path')}init_args." for key in keys if key.endswith(".class_path")]
    for key in keys:
        if key.startswith(tuple(others)):
            continue
        was, now = (found.settings.get(key, "its default") for found in (old, new))
        said.append(f"{key} was {was} and is {now}")
    for name in sorted(old.code.keys() & new.code.keys()):
        files = [_file(m) for m in new.code[name] if old.code[name].get(m) != new.code[name][m]]
        if files or old.code[name].keys() - new.code[name].keys():
            said.append(f"the code of {name} has changed ({', '.join(files) or 'it has other bases'})")
    if _release(old.mmkd) != _release(new.mmkd):
        said.append(f"mmkd was {old.mmkd} and is {new.mmkd}")
    return said if len(said) <= MANY else [*said[: MANY - 1], f"{len(said) - MANY + 1} more differences"]


def _release(version: str) -> list[str]:
    """The part of a version that rises when numbers may change: 0.1 of 0.1.3, and 2 of 2.1.3."""
    parts = version.split(".")
    return parts[:2] if parts[0] == "0" else parts[:1]


def _installed(file: str) -> bool:
    """Whether a module belongs to Python or to an installed library, whose versions a study saves."""
    path = Path(file).resolve()
    roots = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib")}
    return "site-packages" in path.parts or any(root in path.parents for root in roots)


@cache
def _fingerprint(file: str, _written: int) -> str:
    """A hash of what a module does, kept as long as nobody writes the file."""
    tree = ast.parse(Path(file).read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = rest or [ast.Pass()]
    return sha256(ast.unparse(tree).encode()).hexdigest()[:32]


def _file(module: str) -> str:
    path = Path(getattr(sys.modules.get(module), "__file__", None) or module)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
