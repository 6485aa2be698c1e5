"""Every public name has a docstring, and the reference shows it, on pages whose links lead somewhere."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.test_floors import FLOOR_OF

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "scripts/reference/build.py"


def definitions(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, bool]]:
    """Public names that a module or a class defines, its own first, and whether each is described."""
    yield name, ast.get_docstring(node) is not None
    for statement, following in zip_longest(node.body, node.body[1:]):
        if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
            yield from definitions(statement, f"{name}.{statement.name}")
        elif isinstance(statement, ast.FunctionDef) and not statement.name.startswith("_"):
            yield f"{name}.{statement.name}", ast.get_docstring(statement) is not None
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            below = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in (part for whole in targets for part in ast.walk(whole)):
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    # Fields belong to their class, whose docstring may say enough of them.
                    yield f"{name}.{target.id}", below or isinstance(node, ast.ClassDef)


def public_names(root: Path) -> dict[str, bool]:
    """All public names of mmkd, and whether a docstring describes each."""
    names: dict[str, bool] = {}
    for path in sorted((root / "mmkd").rglob("*.py")):
        module = path.relative_to(root).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for name, described in definitions(ast.parse(path.read_text()), module):
            # Of a property and its setter, one has the docstring.
            names[name] = names.get(name, False) or described
    return names


def build(site: Path, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, BUILD, site, root], capture_output=True, text=True)


def shown_names(site: Path) -> set[str]:
    pages = (site / "reference").rglob("*.html")
    return {name for page in pages for name in re.findall(r'id="(mmkd[\w.]*)"', page.read_text())}


def dead_links(site: Path) -> list[str]:
    """Links to what is not there, and whatever a page would ask another host for."""
    texts = {path: path.read_text() for path in site.rglob("*.html")}
    places = {path: set(re.findall(r'\sid="([^"]+)"', text)) for path, text in texts.items()}
    dead = []
    for path, text in texts.items():
        for tag, link in set(re.findall(r'<(\w+)\s[^>]*?(?:href|src)="([^"]+)"', text)):
            url = urlsplit(link)
            if (url.netloc and tag == "a") or url.scheme == "data":
                continue
            base = site if url.path.startswith("/") else path.parent
            target = (base / unquote(url.path).lstrip("/")).resolve() if url.path else path
            there = target.is_file() and (not url.fragment or unquote(url.fragment) in places[target])
            if url.netloc or not there:
                dead.append(f"{path.relative_to(site)}: <{tag}> {link}")
    return dead


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name, described in public_names(ROOT).items() if not described] == []


def test_every_page_has_a_place_in_the_navigation() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(pages) >= 5
    named = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert pages - set(named) == set()


def test_the_reference_shows_every_public_name(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = build(site, ROOT)
    assert done.returncode == 0, done.stdout
    assert sorted(public_names(ROOT).keys() - shown_names(site)) == []
    assert dead_links(site) == []
    index = (site / "reference/index.html").read_text()
    rooms = re.findall(r'<li><a [^>]*href="(\w+)[/.][^>]*><code>\1<', index)
    floors = [FLOOR_OF[room] for room in rooms]
    assert set(rooms) == {name.split(".")[1] for name in public_names(ROOT) if "." in name}
    assert floors == sorted(floors)


def repository(root: Path, planted: str, page: str = "") -> Path:
    """A repository of one module and one page of its own, with this one's settings of the site."""
    files = {
        "mmkd/__init__.py": '"""A package."""\n',
        "mmkd/planted.py": planted,
        "README.md": f"# mmkd\n{page}\n",
    }
    for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "configs/README.md", "docs/speed.md"):
        files[name] = "# A page\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "tests").mkdir()
    shutil.copy(ROOT / "tests/test_floors.py", root / "tests")
    settings = (ROOT / "mkdocs.yml").read_text()
    (root / "mkdocs.yml").write_text(
        re.sub(r"^  - [^:\n]*: (?!index)\S*\.md\n", "", settings, flags=re.MULTILINE)
    )
    return root


def test_a_name_that_is_left_out_is_seen(tmp_path: Path) -> None:
    # Griffe does not read names that are assigned together.
    planted = '"""A module."""\n\nSHOWN = 1\n"""A number."""\nHERE, GONE = 2, 3\n"""Two numbers."""\n'
    root = repository(tmp_path / "repository", planted)
    assert build(tmp_path / "site", root).returncode == 0
    assert public_names(root).keys() - shown_names(tmp_path / "site") == {
        "mmkd.planted.HERE",
        "mmkd.planted.GONE",
    }


@pytest.mark.parametrize(
    ("planted", "name"),
    [
        ("", "mmkd.planted"),
        ('"""A module."""\nLIMIT = 3\n"""A number."""\nOTHER = 4', "mmkd.planted.OTHER"),
        ('"""A module."""\nName: TypeAlias = str', "mmkd.planted.Name"),
        ('"""A module."""\nINK, PAPER = 1, 2', "mmkd.planted.PAPER"),
        ('"""A module."""\ndef f(): return 1', "mmkd.planted.f"),
        ('"""A module."""\nclass Pair(NamedTuple):\n    a: int', "mmkd.planted.Pair"),
        ('"""A module."""\nclass A:\n    """A class."""\n    def f(self): return 1', "mmkd.planted.A.f"),
    ],
)
def test_a_missing_docstring_is_seen(tmp_path: Path, planted: str, name: str) -> None:
    assert public_names(repository(tmp_path, planted))[name] is False


@pytest.mark.parametrize(
    ("docstring", "page", "complaint"),
    [
        ("A number.", "[Where?](docs/nowhere.md)", "page does not exist"),
        (
            "A number.\n\n    Args:\n        b: no parameter.\n    ",
            "",
            "does not appear in the function signature",
        ),
    ],
)
def test_a_warning_fails_the_build(tmp_path: Path, docstring: str, page: str, complaint: str) -> None:
    planted = f'"""A module."""\n\n\ndef f(a: int) -> int:\n    """{docstring}"""\n    return a\n'
    done = build(tmp_path / "site", repository(tmp_path / "repository", planted, page))
    assert done.returncode == 1
    assert complaint in done.stdout


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<h1 id="there">A</h1><a href="b.html">B</a><a href="#there">A</a>')
    (tmp_path / "b.html").write_text('<a href="a.html#there">A</a><a href="https://example.org">far</a>')
    assert dead_links(tmp_path) == []
    (tmp_path / "b.html").write_text('<a href="a.html#gone">A</a>')
    assert dead_links(tmp_path) == ["b.html: <a> a.html#gone"]
    (tmp_path / "b.html").write_text('<img src="gone.png">')
    assert dead_links(tmp_path) == ["b.html: <img> gone.png"]
    (tmp_path / "b.html").write_text('<script src="https://example.org/x.js"></script>')
    assert dead_links(tmp_path) == ["b.html: <script> https://example.org/x.js"]
