"""The site's sources: the pages in docs/, the READMEs, and one page for each module."""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

from modules import PACKAGE, Module, read_modules

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "configs/README.md": "configurations.md",
}
"""Pages that are no files of docs/, by their paths in the repository."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)[^)#\s]+")
"""The path in a Markdown link to a file."""


def write_pages(root: Path, out: Path) -> list[Any]:
    """Write the sources of the site into an empty folder.

    Args:
        root: the folder of the repository.
        out: where the sources go.

    Returns:
        The navigation of the reference, as the generator reads it.
    """
    shutil.copytree(root / "docs", out)
    for path, page in OUTSIDE.items():
        shutil.copy(root / path, out / page)
    paths = {page: path for path, page in OUTSIDE.items()}
    for file in out.rglob("*.md"):
        page = file.relative_to(out).as_posix()
        file.write_text(with_links(file.read_text(), paths.get(page, f"docs/{page}"), page))
    modules = read_modules(root)
    for module in modules:
        file = out / page_of_module(module)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text_of(module, modules))
    return nav_of(PACKAGE, modules)


def with_links(text: str, path: str, page: str) -> str:
    """The text of a file of the repository, with links that lead from its page to other files' pages."""

    def lead(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[0]))
        return posixpath.relpath(page_of(target), posixpath.dirname(page) or ".")

    return LINK.sub(lead, text)


def page_of(path: str) -> str:
    """Where the site has a file of the repository; a room's folder stands for its reference."""
    if path.startswith(f"{PACKAGE}/"):
        return posixpath.join("reference", path.removeprefix(f"{PACKAGE}/"), "index.md")
    return OUTSIDE.get(path, path.removeprefix("docs/"))


def page_of_module(module: Module) -> str:
    """The page of a module; a package's is the index of a folder."""
    inside = module.name.split(".")[1:]
    return "/".join(["reference", *inside, "index"] if module.is_package else ["reference", *inside]) + ".md"


def text_of(module: Module, modules: list[Module]) -> str:
    """The Markdown of a module's page: what the module defines, and of a package, what is in it."""
    # What a module imports is shown where it is defined, once.
    lines = [f"::: {module.name}", "    options:", f"      members: {module.own or 'false'}"]
    if module.exports:
        links = ", ".join(f"[`{name}`][{home}.{name}]" for name, home in module.exports.items())
        lines += ["", f"`from {module.name} import` {links}"]
    inside = [other for other in modules if other.package == module.name]
    lines += ["", *(f"- [`{short(other.name)}`][{other.name}]: {other.summary}" for other in inside)]
    return "\n".join(lines) + "\n"


def nav_of(package: str, modules: list[Module]) -> list[Any]:
    """The navigation of a package: its own page, then its modules, a section for each package."""
    nav: list[Any] = [page_of_module(module) for module in modules if module.name == package]
    for module in modules:
        if module.package == package:
            inside = nav_of(module.name, modules) if module.is_package else page_of_module(module)
            nav.append({short(module.name): inside})
    return nav


def short(name: str) -> str:
    """The last part of a module's name."""
    return name.rpartition(".")[2]
