"""The modules of the package, read without importing them, in the order of the house's floors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "mmkd"


class Module(NamedTuple):
    """A module, as far as its page and its place in the navigation depend on it."""

    name: str
    is_package: bool
    summary: str  # the first line of its docstring
    own: list[str]  # public names that it defines
    exports: dict[str, str]  # names of ``__all__`` that it imports, with the modules that define them

    @property
    def package(self) -> str:
        """The package that the module belongs to."""
        return self.name.rpartition(".")[0]


def read_modules(root: Path) -> list[Module]:
    """All modules of the package below ``root``; rooms of a lower floor come first."""
    floors = floor_of_rooms(root)
    modules = [read_module(path, root) for path in (root / PACKAGE).rglob("*.py")]
    # A new room appears before its floor is named; tests/test_floors.py then asks for the floor.
    return sorted(modules, key=lambda module: (floors.get(room(module.name), len(floors)), module.name))


def room(module: str) -> str:
    """The first name below the package; of the package itself, nothing."""
    return module.split(".")[1] if "." in module else ""


def floor_of_rooms(root: Path) -> dict[str, int]:
    """The number of each room's floor, from the test that keeps the floors apart."""
    for node in ast.parse((root / "tests/test_floors.py").read_text()).body:
        if isinstance(node, ast.Assign) and list(defined(node)) == ["FLOORS"]:
            return {name: floor for floor, names in enumerate(ast.literal_eval(node.value)) for name in names}
    raise ValueError("tests/test_floors.py defines no FLOORS")


def read_module(path: Path, root: Path) -> Module:
    """One module, from its file."""
    tree = ast.parse(path.read_text())
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    own = [name for node in tree.body for name in defined(node)]
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and list(defined(node)) == ["__all__"]
    ]
    imported = {
        alias.name: str(node.module)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return Module(
        name=name,
        is_package=is_package,
        summary=(ast.get_docstring(tree) or "").partition("\n")[0],
        own=[name for name in own if not name.startswith("_")],
        exports={name: imported[name] for names in listed for name in names if name in imported},
    )


def defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))
