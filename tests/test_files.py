"""A file is replaced whole or not at all."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

from mmkd import files
from mmkd.files import replacing


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"  # in a folder that is not there yet
    for text in ("old and longer", "new"):
        with replacing(path) as part:
            part.write_text(text)
        assert path.read_text() == text
        assert [*path.parent.iterdir()] == [path]


def test_until_the_end_readers_find_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as part:
        assert part.parent == path.parent  # elsewhere might be another disk, to which nothing moves at once
        part.write_text("new")
        assert path.read_text() == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_middle_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as part, part.open("w") as file:
            file.write("ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_who_writes_nothing_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_disk_that_cannot_keep_the_content_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def full(descriptor: int) -> None:
        assert path.read_text() == "old"  # the content is safe before the name is
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"), replacing(path) as part:
        part.write_text("new")
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_of_two_writers_each_writes_its_own_and_the_last_wins(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as slow:
        slow.write_text("slo")
        with replacing(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick"
        slow.write_text("slow")
    assert path.read_text() == "slow"
    assert [*tmp_path.iterdir()] == [path]


def test_others_may_read_it_as_they_may_read_any_new_file(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "a"
    plain.touch()
    with replacing(path) as part:
        part.write_bytes(b"\0")
    assert os.stat(path).st_mode == os.stat(plain).st_mode


def test_the_module_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(files.__file__).read_text())
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    assert {name.split(".")[0] for name in modules} <= set(sys.stdlib_module_names)
