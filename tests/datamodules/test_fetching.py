"""Fetching from a publisher: whole files or none, and archives that keep to their folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules import fetching
from datamodules.fetching import Archive, fetch, obtain, unpack
from mmkd.types import ConfigError
from tests.datamodules.publishers import Host, host, inside, tar, zipped

CONTENT = bytes(range(256)) * 5000  # more than one piece of a megabyte
FILES = {"set/a.txt": b"a", "set/deep/b.txt": b"b"}
KEPT = {"a.txt": b"a", "deep/b.txt": b"b"}


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("no_proxy", "*")
    with host() as given:
        given.files["file.bin"] = CONTENT
        yield given


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_fetched_as_it_is_given(publisher: Host, known: bool, tmp_path: Path) -> None:
    fetch(f"{publisher.url}/file.bin", tmp_path / "new" / "file.bin", md5=md5(CONTENT) if known else "")
    assert inside(tmp_path) == {"new/file.bin": CONTENT}


@pytest.mark.parametrize(
    ("name", "cut", "sum_", "said"),
    [
        ("file.bin", 1000, "", f"cut off after 1000 of {len(CONTENT)} bytes: try again"),
        ("file.bin", None, md5(b""), f"MD5 sum {md5(CONTENT)}, not {md5(b'')}"),
        ("other.bin", None, "", r"cannot be fetched \(Not Found\): bring .*file.bin from elsewhere"),
    ],
)
def test_what_is_not_whole_or_not_right_replaces_nothing(
    publisher: Host, name: str, cut: int | None, sum_: str, said: str, tmp_path: Path
) -> None:
    path, publisher.cut = tmp_path / "file.bin", cut
    path.write_bytes(b"old")
    with pytest.raises(ConfigError, match=said) as error:
        fetch(f"{publisher.url}/{name}", path, md5=sum_)
    assert "\n" not in str(error.value)
    assert inside(tmp_path) == {"file.bin": b"old"}


def test_whoever_stops_it_leaves_no_part(
    publisher: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_CHUNK", 1000)

    class Stopped:
        def __init__(self, **kwargs: object) -> None:
            self.pieces = 0

        def __enter__(self) -> Stopped:
            return self

        def __exit__(self, *args: object) -> None: ...

        def update(self, size: int) -> None:
            self.pieces += 1
            if self.pieces == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "tqdm", Stopped)
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{publisher.url}/file.bin", tmp_path / "file.bin")
    assert inside(tmp_path) == {}


def test_a_host_that_is_not_there_is_told_in_one_line(publisher: Host, tmp_path: Path) -> None:
    with host() as gone:
        url = gone.url
    with pytest.raises(ConfigError, match=r"cannot be fetched \(.*refused") as error:
        fetch(f"{url}/file.bin", tmp_path / "file.bin")
    assert "\n" not in str(error.value)
    assert inside(tmp_path) == {}


@pytest.mark.parametrize("pack", [tar, zipped])
def test_the_folder_of_an_archive_becomes_that_of_the_set(pack, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pack(FILES))
    unpack(tmp_path / "x", tmp_path / "data", top="set")
    assert inside(tmp_path / "data") == KEPT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x"]


def test_an_archive_within_an_archive_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(zipped({"in.zip": zipped(FILES), "note": b""}))
    unpack(tmp_path / "x", tmp_path / "data", top="set", inner="in.zip")
    assert inside(tmp_path / "data") == KEPT


def linked() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        member = tarfile.TarInfo("set/link")
        member.type, member.linkname = tarfile.SYMTYPE, "../../.."
        archive.addfile(member)
    return whole.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tar({**FILES, "set/../../out": b"!"}), "would write outside of its folder"),
        (zipped({**FILES, "set/../../out": b"!"}), r"outside of its folder \('set/../../out'\)"),
        (zipped({**FILES, "/out": b"!"}), "outside of its folder"),
        (linked(), "would write outside of its folder"),
        (tar(FILES)[:-20], "cut off or no archive"),
        (zipped(FILES)[:-20], "cut off or no archive"),
        (b"nothing", "cut off or no archive"),
        (b"", "cut off or no archive"),
        (tar({"other/a": b""}), "does not hold a folder set"),
    ],
    ids=["tar out", "zip out", "zip at the root", "link", "cut tar", "cut zip", "text", "empty", "other"],
)
def test_wrong_archives_leave_nothing(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "here" / "x"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as error:
        unpack(path, tmp_path / "here" / "data", top="set")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert inside(tmp_path) == {"here/x": content}
    assert [p.name for p in path.parent.iterdir()] == ["x"]


def test_a_tar_of_absolute_names_stays_inside(tmp_path: Path) -> None:
    """The data filter takes the slash away."""
    (tmp_path / "x").write_bytes(tar({str(tmp_path / "out"): b"!"}))
    unpack(tmp_path / "x", tmp_path / "data")
    assert not (tmp_path / "out").exists()


def test_nobody_is_asked_twice(publisher: Host, tmp_path: Path) -> None:
    content = publisher.files["a b.tar.gz"] = tar(FILES)
    publisher.files = {"a%20b.tar.gz": content}
    archive = Archive(f"{publisher.url}/a%20b.tar.gz", top="set", into="set", md5=md5(content))
    obtain(archive, tmp_path)
    assert inside(tmp_path / "set") == KEPT
    (tmp_path / "set" / "a.txt").write_text("mine")
    obtain(archive, tmp_path)  # what is there is not touched
    assert (tmp_path / "set" / "a.txt").read_text() == "mine"
    (tmp_path / "set").rename(tmp_path / "moved")
    obtain(archive, tmp_path)  # and what was fetched is not fetched again
    assert inside(tmp_path / "set") == KEPT
    assert len(publisher.asked) == 1
    (tmp_path / "set").rename(tmp_path / "again")
    (tmp_path / "a b.tar.gz").write_bytes(content + b"!")
    with pytest.raises(ConfigError, match=r"a b\.tar\.gz is not what .* gives .*: delete it"):
        obtain(archive, tmp_path)
