"""Files of published sets: lines for what is missing, and sums for what has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from datamodules.published import SUMS, Published, numbered
from mmkd.data.catalogue import PARTS
from mmkd.types import ConfigError

SET = Published("A set", "https://example.org/set", "a.txt and b.txt")
TRAIN, VAL, TEST, PUBLIC = range(len(PARTS))


def test_a_missing_file_says_what_to_put_where(tmp_path: Path) -> None:
    said = (
        f"A set is not there ({tmp_path / 'a.txt'} is missing): get it from https://example.org/set, and put"
        f" a.txt and b.txt into {tmp_path}"
    )
    for read in (
        SET.content,
        SET.lines,
        lambda *f: SET.get(*f, download=False),
        lambda f, n: SET.stamps(f, [n]),
    ):
        with pytest.raises(ConfigError) as error:
            read(tmp_path, "a.txt")
        assert str(error.value) == said
    with pytest.raises(ConfigError, match="A set has no file that could be fetched"):
        SET.get(tmp_path, "a.txt", download=True)


def test_a_file_that_changes_after_it_was_read_is_named(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
        assert SET.lines(tmp_path, name) == [name]
    sums = [f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in ("a.txt", "b.txt")]
    assert (tmp_path / SUMS).read_text() == "".join(sums)
    assert SET.lines(tmp_path, "a.txt") == ["a.txt"]
    (tmp_path / "a.txt").write_text("other")
    with pytest.raises(ConfigError, match=r"a\.txt is another file than before") as error:
        SET.lines(tmp_path, "a.txt")
    assert "\n" not in str(error.value)
    assert SET.lines(tmp_path, "b.txt") == ["b.txt"]
    (tmp_path / SUMS).unlink()
    assert SET.lines(tmp_path, "a.txt") == ["other"]


def test_a_folder_that_is_not_ones_own_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("datamodules.published.replacing", refused)
    (tmp_path / "a.txt").write_text("a")
    assert SET.lines(tmp_path, "a.txt") == ["a"]
    assert not (tmp_path / SUMS).exists()


@pytest.mark.parametrize("content", [b"nonsense\n", b"\xff\xfe"])
def test_a_list_of_sums_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / SUMS).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{SUMS} .*: delete it, and it is written anew"):
        SET.lines(tmp_path, "a.txt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1,2\n3\n", "has 1 cells in row 2, not 2"),
        (b'1,2\n3,"4', "is cut off or no CSV"),
        (b"\xff,1\n", "is not written in UTF-8"),
        (b"", "is empty"),
    ],
)
def test_wrong_tables_are_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"t\.csv {said}.*: get it again from https://example.org/set"):
        SET.rows(tmp_path, "t.csv", 2)


def test_cells_may_hold_quotes_and_ends_of_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"1","a ""b"",\nc"\n"2","\u2028"\n', encoding="utf-8")
    assert SET.rows(tmp_path, "t.csv", 2) == [["1", 'a "b",\nc'], ["2", "\u2028"]]


def test_stamps_are_sizes_and_times(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    seen = (tmp_path / "a").stat()
    assert SET.stamps(tmp_path, ["a", "a"]).tolist() == [[3, seen.st_mtime_ns]] * 2
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ConfigError, match="a is empty"):
        SET.stamps(tmp_path, ["a"])


def test_equal_names_have_equal_numbers() -> None:
    assert numbered(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
