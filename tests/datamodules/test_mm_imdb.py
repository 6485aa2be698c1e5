"""MM-IMDb: posters and plots of one film, a class of several genres, published lists, and wrong files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.mm_imdb import GENRES, MmImdb
from mmkd.cohort import Fleet
from mmkd.data.media import Images, Texts
from mmkd.data.partition import IID
from mmkd.students import TextStudent, VisionStudent
from mmkd.types import ConfigError
from tests.datamodules.hybrids import check_a_round
from tests.datamodules.publishers import FILMS, write_mm_imdb

PEERS = {"cameras/0": "image", "cameras/1": "image", "phones/0": "text"}


def make(folder: Path, **kwargs: Any) -> MmImdb:
    given = {"peers": PEERS, "batch_size": 4, "partition": IID(), "image": Images(size=12)}
    return MmImdb(**{"folder": str(folder), "cache": str(folder / "cache"), **given, **kwargs})


def films(size: int) -> list[int]:
    """Numbers of the films of a list that are of a genre of the paper."""
    return [i for i in range(size) if i % 6 != 5]


def test_parts_are_the_published_ones_and_a_film_is_of_its_first_genre(tmp_path: Path) -> None:
    write_mm_imdb(tmp_path, train=24, dev=6, test=6)
    data = make(tmp_path, public=0.2)
    # Four of 24 films are of no genre, and one of each six.
    assert {name: len(data.rows(name)) for name in ("train", "val", "test", "public")} == {
        "train": 16,
        "val": 5,
        "test": 5,
        "public": 4,
    }
    order = [*films(24), *films(6), *films(6)]
    first = [min(GENRES.index(genre) for genre in FILMS[i % 3][0]) for i in order]
    assert data.samples.y.tolist() == first
    assert {GENRES[i] for i in first} == {"Drama", "Comedy", "Western"}
    assert data.num_classes == len(data.samples.classes) == 23


def test_other_genres_may_be_the_classes(tmp_path: Path) -> None:
    write_mm_imdb(tmp_path)
    data = make(tmp_path, genres=["Drama", "Adult"])
    assert data.samples.classes == ["Drama", "Adult"]
    assert data.samples.y.bincount().tolist() == [30, 6]  # every sixth of 36 films
    with pytest.raises(ConfigError, match="is of Noir, Gore: name other genres"):
        _ = make(tmp_path, genres=["Noir", "Gore"]).samples
    for wrong in (["Drama"], ["Drama", "Drama"]):
        with pytest.raises(ConfigError, match="genres are two or more names"):
            make(tmp_path, genres=wrong)


def test_a_film_is_seen_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mm_imdb(tmp_path)
    path = tmp_path / "dataset" / "0000001.json"
    path.write_text(json.dumps({"genres": ["War"], "plot": []}))
    Image.new("L", (20, 30), 51).save(tmp_path / "dataset" / "0000001.jpeg")  # some posters are grey
    samples = make(tmp_path, text=Texts(length=64)).samples
    image: Any = samples.views["image"].whole()
    text: Any = samples.views["text"]
    assert image.shape == (30, 3, 12, 12)
    torch.testing.assert_close(image[1], torch.full((3, 12, 12), 51 / 255), rtol=0, atol=0.01)
    assert text.text(text.whole()[2]) == "a film with zzz, number 0000002"  # the longer of two plots
    assert samples.shown["text"].tolist() == [i != 1 for i in range(30)]
    assert samples.shown["image"].all()
    monkeypatch.setattr(Images, "decode", lambda self, path: pytest.fail(f"{path} was opened again"))
    assert torch.equal(make(tmp_path).samples.views["image"].whole(), image)  # type: ignore[arg-type]


def test_peers_learn_a_round_of_a_hybrid(tmp_path: Path) -> None:
    write_mm_imdb(tmp_path)
    fleets = {
        "cameras": Fleet(lambda n: VisionStudent(n, in_chans=3, width=4), 2),
        "phones": Fleet(lambda n: TextStudent(n, width=4), 2),
    }
    check_a_round(make(tmp_path, peers=None), fleets)


FILM = "dataset/0000003"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("split.json", lambda b: b[:-1], "is cut off or no JSON"),
        ("split.json", lambda b: b"[]", "is no object of JSON"),
        ("split.json", lambda b: b.replace(b"dev", b"val"), "has no list 'dev'"),
        ("split.json", lambda b: b.replace(b"0000001", b"0000002"), "'0000002', which is no film, or twice"),
        ("split.json", lambda b: b.replace(b"0000001", b"../0001"), r"'\.\./0001', which is no film"),
        (f"{FILM}.json", lambda b: b[:-1], "is cut off or no JSON"),
        (f"{FILM}.json", lambda b: b.replace(b"genres", b"kinds"), "has no list of texts 'genres'"),
        (f"{FILM}.json", lambda b: b.replace(b'["Drama"]', b'"Drama"'), "has no list of texts 'genres'"),
        (f"{FILM}.json", lambda b: b.replace(b'["x"', b"[1"), "has no list of texts 'plot'"),
        (f"{FILM}.jpeg", lambda b: b"", "is empty"),
        (f"{FILM}.jpeg", lambda b: b[: len(b) // 2], "is no image that can be read"),
    ],
)
def test_wrong_files_are_named(
    name: str, change: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    write_mm_imdb(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    assert change(content) != content
    path.write_bytes(change(content))
    with pytest.raises(ConfigError, match=said) as error:
        make(tmp_path).samples.views["image"].whole()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_lists_that_change_are_named(tmp_path: Path) -> None:
    write_mm_imdb(tmp_path)
    _ = make(tmp_path).samples
    (tmp_path / "split.json").write_text((tmp_path / "split.json").read_text() + "\n")
    with pytest.raises(ConfigError, match=r"split\.json is another file than before"):
        _ = make(tmp_path).samples


@pytest.mark.parametrize("name", ["split.json", f"{FILM}.json", f"{FILM}.jpeg"])
def test_a_missing_file_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    write_mm_imdb(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name} is missing.*lisi1\.unal\.edu\.co/mmimdb/"):
        _ = make(tmp_path).samples
