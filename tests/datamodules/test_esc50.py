"""ESC-50: a fold for tests, whole recordings, its part of ten classes, and wrong tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.esc50 import META, PUBLISHED, Esc50
from datamodules.fetching import Archive
from mmkd.data.catalogue import PARTS
from mmkd.data.media import Sounds
from mmkd.types import ConfigError
from tests.datamodules.publishers import host, inside, write_esc50, zipped

PEERS = {f"ears/{i}": "audio" for i in range(3)}
Rows = list[dict[str, str]]


def make(folder: Path, **kwargs: Any) -> Esc50:
    given = {"peers": PEERS, "batch_size": 4, "audio": Sounds(rate=8000, seconds=0.1), "esc10": True}
    return Esc50(**{"folder": str(folder), "cache": str(folder.parent / "cache"), **given, **kwargs})


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    folder = tmp_path_factory.mktemp("esc") / "set"
    return folder, write_esc50(folder)


@pytest.mark.parametrize(("fold", "sounds"), [(5, 10), (1, 20)])
def test_a_fold_is_for_tests_and_recordings_stay_whole(
    there: tuple[Path, Rows], fold: int, sounds: int
) -> None:
    """Of each of ten classes there is a sound in every fold, and two of one recording in the first."""
    folder, rows = there
    kept = [row for row in rows if row["esc10"] == "True"]
    data = make(folder, test_fold=fold)
    assert {kept[row]["fold"] for row in data.rows("test")} == {str(fold)}
    assert len(data.rows("test")) == sounds
    found = {name: {kept[row]["src_file"] for row in data.rows(name)} for name in PARTS}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 50
    assert len(found["public"]) == 7  # a fifth of the 36 that validation leaves of the other folds
    owned: list[Any] = [data.private(peer, "train") for peer in PEERS]
    sources = [{kept[row]["src_file"] for row in held.ids} for held in owned]
    assert sum(map(len, sources)) == len(found["train"])


def test_classes_are_named_by_the_table(there: tuple[Path, Rows]) -> None:
    folder, rows = there
    ten, fifty = make(folder), make(folder, esc10=False)
    assert (ten.num_classes, fifty.num_classes) == (10, 50)
    assert ten.samples.classes == [f"sound_{5 * i}" for i in range(10)]
    assert fifty.samples.y.tolist() == [int(row["target"]) for row in rows]
    assert [ten.samples.classes[i] for i in ten.samples.y] == [
        row["category"] for row in rows if row["esc10"] == "True"
    ]


def test_a_fold_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="test_fold must lie in"):
        make(tmp_path, test_fold=6)


def test_a_second_start_opens_no_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_esc50(tmp_path / "set")
    x: Any = make(tmp_path / "set").samples.views["audio"].whole()
    monkeypatch.setattr(Sounds, "decode", lambda self, path: pytest.fail(f"{path} was opened again"))
    assert torch.equal(make(tmp_path / "set").samples.views["audio"].whole(), x)  # type: ignore[arg-type]


@pytest.fixture
def table(there: tuple[Path, Rows], tmp_path: Path) -> Path:
    """A table that may be changed, with the sounds beside it."""
    folder = tmp_path / "set"
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").symlink_to(there[0] / "audio")
    (folder / META).write_bytes((there[0] / META).read_bytes())
    return folder / META


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("src_file", "source", "has the columns .*source, take, not filename"),
        ("1-1-A-0.wav,1,0", "1-1-A-0.wav,6,0", "has in row 2 fold '6', and folds are 1 to 5"),
        ("1-1-A-0.wav,1,0", "1-1-A-0.wav,1,50", "has in row 2 target '50', and classes are 0 to 49"),
        ("1-1-A-0.wav,1,0", "1-1-A-0.wav,1,-1", "has in row 2 target '-1'"),
        ("1-1-A-0.wav,1,0,sound_0,True", "1-1-A-0.wav,1,0,sound_0,yes", "esc10 'yes', not True or False"),
        ("1-1-A-0.wav,1,0,sound_0", "1-1-A-0.wav,1,0,other", "calls class 0 'other' and 'sound_0'"),
        ("1-1-A-0.wav,1,0", "../secret.wav,1,0", r"has in row 2 '\.\./secret\.wav', which is no name"),
        ("1-1-A-0.wav,1,0", "1-1-C-0.wav,1,0", r"audio/1-1-C-0\.wav is missing.*github.com/karolpiczak"),
        (",True,2,A", ",True,1,A", "has in row 4 recording 1, which is in two folds"),
        (",True,", ",False,", "has sounds of 0 classes, not of 10"),
    ],
)
def test_wrong_rows_are_named(table: Path, old: str, new: str, said: str) -> None:
    content = table.read_text()
    assert old in content
    table.write_text(content.replace(old, new))
    with pytest.raises(ConfigError, match=said) as error:
        _ = make(table.parents[1]).samples
    assert "\n" not in str(error.value)


def test_a_table_that_is_cut_off_is_named(table: Path) -> None:
    content = table.read_bytes()
    table.write_bytes(content[:-8])
    with pytest.raises(ConfigError, match=r"esc50\.csv has 6 cells in row 301, not 7"):
        _ = make(table.parents[1]).samples


def test_a_table_that_changes_is_named(table: Path) -> None:
    _ = make(table.parents[1]).samples
    table.write_bytes(table.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"esc50\.csv is another file than before"):
        _ = make(table.parents[1]).samples


def test_a_folder_that_is_not_there_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"esc50\.csv is missing.*karolpiczak/ESC-50.*download: true"):
        _ = make(tmp_path / "set").samples


def test_it_is_fetched_if_it_is_wanted(
    there: tuple[Path, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    files = {f"ESC-50-master/{name}": content for name, content in inside(there[0]).items()}
    with host() as publisher:
        publisher.files["archive/master.zip"] = zipped(files)
        here = Archive(f"{publisher.url}/archive/master.zip", top="ESC-50-master")
        monkeypatch.setattr("datamodules.esc50.PUBLISHED", PUBLISHED._replace(archive=here))
        assert len(make(tmp_path / "set", download=True).samples.y) == 60
