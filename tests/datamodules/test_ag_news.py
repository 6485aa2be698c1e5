"""AG News: texts as they are published, tokens of public texts, and wrong files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.ag_news import AgNews
from mmkd.cohort import Fleet
from mmkd.data.media import Texts
from mmkd.data.partition import IID
from mmkd.students import TextStudent
from mmkd.types import ConfigError
from tests.datamodules.hybrids import check_a_round
from tests.datamodules.publishers import write_ag_news

PEERS = {f"phones/{i}": "text" for i in range(3)}


def make(folder: Path, **kwargs: Any) -> AgNews:
    return AgNews(**{"folder": str(folder), "peers": PEERS, "batch_size": 4, "partition": IID(), **kwargs})


def test_texts_are_titles_and_descriptions_and_tests_the_published_ones(tmp_path: Path) -> None:
    write_ag_news(tmp_path, train=80, test=20)
    data = make(tmp_path, val=0.1, public=0.25)
    sizes = {part: len(data.rows(part)) for part in ("train", "val", "test", "public")}
    assert sizes == {"train": 54, "val": 8, "test": 20, "public": 18}  # a quarter of the 72 that are left
    assert data.samples.classes == ["World", "Sports", "Business", "Sci/Tech"]
    view: Any = data.samples.views["text"]
    for split, first in (("train", 0), ("test", 80)):
        held: Any = data.private("phones/0", split)
        for x, y, row in zip(held.x, held.y, held.ids.tolist(), strict=True):
            i = row - first
            assert view.text(x) == f'{split} {i} he said "{i}" once, twice'
            assert y == i % 4
    assert sum(data.samples_of(peer) for peer in PEERS) == 54


def test_tokens_may_be_learnt_from_public_texts(tmp_path: Path) -> None:
    write_ag_news(tmp_path)
    data = make(tmp_path, text=Texts(length=32, tokenizer="public", vocabulary=300))
    x: Any = data.samples.views["text"].whole()
    assert 128 < x.max() < 300
    view: Any = data.samples.views["text"]
    assert view.text(x[3]) == 'train 3 he said "3" once, twice'


def test_peers_learn_a_round_of_a_hybrid(tmp_path: Path) -> None:
    write_ag_news(tmp_path)
    fleets = {
        "phones": Fleet(lambda n: TextStudent(n, width=4), 2),
        "desks": Fleet(lambda n: TextStudent(n, width=4), 1),
    }
    check_a_round(make(tmp_path, peers=None), fleets)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("train.csv", lambda b: b[:-5], r"train\.csv is cut off or no CSV"),
        ("train.csv", lambda b: b'"5"' + b[3:], "has class '5' in row 1, and classes are 1 to 4"),
        ("test.csv", lambda b: b'"0"' + b[3:], "has class '0' in row 1"),
        ("test.csv", lambda b: b'"World"' + b[3:], "has class 'World' in row 1"),
        ("test.csv", lambda b: b + b'"1","more"\n', "has 2 cells in row 21, not 3"),
        ("test.csv", lambda b: b'"1",""," \\"\n' + b, "has no text in row 1"),
        ("test.csv", lambda b: b"", "is empty"),
        ("test.csv", lambda b: b"\xff" + b, "is not written in UTF-8"),
        ("classes.txt", lambda b: b[:10], "has 2 names of classes, not 4"),
    ],
)
def test_wrong_files_are_named(
    name: str, change: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    write_ag_news(tmp_path)
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match=said) as error:
        _ = make(tmp_path).samples
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_changes_is_named(tmp_path: Path) -> None:
    write_ag_news(tmp_path)
    _ = make(tmp_path).samples
    write_ag_news(tmp_path, test=19)
    with pytest.raises(ConfigError, match=r"test\.csv is another file than before"):
        _ = make(tmp_path).samples


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "classes.txt"])
def test_a_missing_file_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    write_ag_news(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing.*github.com/zhangxiangxiao/Crepe") as error:
        _ = make(tmp_path).samples
    assert "download" not in str(error.value)  # for there is no file of the publisher's
