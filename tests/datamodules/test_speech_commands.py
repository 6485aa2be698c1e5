"""Speech Commands: published lists, whole speakers, sounds that are decoded once, and wrong files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from datamodules.fetching import Archive
from datamodules.speech_commands import PUBLISHED, SpeechCommands
from mmkd.cohort import Fleet
from mmkd.data.catalogue import PARTS
from mmkd.data.media import Sounds
from mmkd.data.partition import IID
from mmkd.students import AudioStudent
from mmkd.types import ConfigError
from tests.datamodules.hybrids import check_a_round
from tests.datamodules.publishers import SPEAKERS, SPOKEN, host, inside, tar, write_speech_commands

PEERS = {f"phones/{i}": "audio" for i in range(2)}
EACH = 2 * len(SPOKEN)
"""Recordings of a speaker."""


def make(folder: Path, **kwargs: Any) -> SpeechCommands:
    given = {"peers": PEERS, "batch_size": 4, "words": SPOKEN, "audio": Sounds(rate=8000, seconds=0.2)}
    return SpeechCommands(**{"folder": str(folder), "cache": str(folder / "cache"), **given, **kwargs})


def speakers(data: SpeechCommands, rows: torch.Tensor) -> set[int]:
    """By their numbers: words come first in the order of rows, then speakers, each twice."""
    return {int(row) % (2 * SPEAKERS) // 2 for row in rows}


def test_parts_are_the_published_ones_and_of_whole_speakers(tmp_path: Path) -> None:
    """Of six speakers who are left a fifth is one, and five are of two peers."""
    write_speech_commands(tmp_path)
    data = make(tmp_path, public=0.2)
    found = {name: speakers(data, data.rows(name)) for name in PARTS}
    assert (found["val"], found["test"]) == ({0}, {1})
    assert {name: len(data.rows(name)) for name in PARTS} == {
        "train": 5 * EACH,
        "val": EACH,
        "test": EACH,
        "public": EACH,
    }
    owned: list[Any] = [data.private(peer, "train") for peer in PEERS]
    ids = [held.ids for held in owned]
    assert not speakers(data, ids[0]) & speakers(data, ids[1])
    assert torch.cat(ids).sort().values.tolist() == data.rows("train").tolist()
    assert data.samples.classes == list(SPOKEN)


def test_sounds_are_those_of_the_files_and_a_second_start_does_not_open_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_speech_commands(tmp_path)
    x: Any = make(tmp_path).samples.views["audio"].whole()
    first = soundfile.read(tmp_path / "dog" / "00000000_nohash_0.wav")[0]
    row = 2 * SPEAKERS  # the first of the second word
    torch.testing.assert_close(x[row, : len(first)], torch.from_numpy(first).float(), rtol=0, atol=1e-4)
    assert not x[row, len(first) :].any()
    monkeypatch.setattr(Sounds, "decode", lambda self, path: pytest.fail(f"{path} was opened again"))
    assert torch.equal(make(tmp_path).samples.views["audio"].whole(), x)  # type: ignore[arg-type]


def test_peers_learn_a_round_of_a_hybrid(tmp_path: Path) -> None:
    write_speech_commands(tmp_path)
    fleets = {
        "phones": Fleet(lambda n: AudioStudent(n, width=4), 2),
        "speakers": Fleet(lambda n: AudioStudent(n, width=4), 1),
    }
    check_a_round(make(tmp_path, peers=None, partition=IID()), fleets)


def test_words_may_be_few(tmp_path: Path) -> None:
    write_speech_commands(tmp_path)
    data = make(tmp_path, words=["yes", "cat"])
    assert data.num_classes == 2
    assert len(data.samples.y) == 2 * 2 * SPEAKERS  # and lists may name words that are not read
    for words in (["yes"], ["yes", "yes"], ["yes", "maybe"]):
        with pytest.raises(ConfigError, match="words are two or more of backward"):
            make(tmp_path, words=words)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("testing_list.txt", lambda b: b[:-7], "names 'yes/00000001_nohash', which is not there"),
        ("testing_list.txt", lambda b: b"", "is empty"),
        ("testing_list.txt", lambda b: b + b"cat/00000000_nohash_0.wav", "as another list does"),
        ("dog/00000000_nohash_0.wav", lambda b: b"", "is empty"),
    ],
)
def test_wrong_files_are_named(
    name: str, change: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    write_speech_commands(tmp_path)
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match=said) as error:
        _ = make(tmp_path).samples
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("left", [1000, 40, 3])
def test_a_sound_that_is_cut_off_is_named_when_it_is_read(left: int, tmp_path: Path) -> None:
    write_speech_commands(tmp_path)
    path = tmp_path / "dog" / "00000000_nohash_1.wav"
    path.write_bytes(path.read_bytes()[:left])
    data = make(tmp_path)
    with pytest.raises(ConfigError, match=r"00000000_nohash_1\.wav is (cut off|no sound)") as error:
        data.samples.views["audio"].whole()
    assert "\n" not in str(error.value)


def test_a_name_without_a_speaker_is_refused(tmp_path: Path) -> None:
    write_speech_commands(tmp_path)
    (tmp_path / "dog" / "00000000_nohash_1.wav").rename(tmp_path / "dog" / "one.wav")
    with pytest.raises(ConfigError, match=r"dog/one\.wav is not called <speaker>_nohash_<number>\.wav"):
        _ = make(tmp_path).samples


@pytest.mark.parametrize("name", ["testing_list.txt", "validation_list.txt"])
def test_a_missing_list_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    write_speech_commands(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing.*arxiv.org/abs/1804.03209.*download: true"):
        _ = make(tmp_path).samples


def test_a_missing_word_says_where_it_comes_from(tmp_path: Path) -> None:
    write_speech_commands(tmp_path)
    (tmp_path / "cat").rename(tmp_path / "kitten")
    with pytest.raises(ConfigError, match=r"cat/\*\.wav is missing"):
        _ = make(tmp_path).samples


def test_an_archive_without_a_folder_becomes_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    write_speech_commands(tmp_path / "there")
    with host() as publisher:
        publisher.files["words.tar.gz"] = tar(inside(tmp_path / "there"))
        here = PUBLISHED._replace(archive=Archive(f"{publisher.url}/words.tar.gz"))
        monkeypatch.setattr("datamodules.speech_commands.PUBLISHED", here)
        data = make(tmp_path / "new", download=True, cache=str(tmp_path / "cache"))
        assert len(data.samples.y) == SPEAKERS * EACH
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "note").write_text("mine")
        with pytest.raises(ConfigError, match=r"mine holds something, and no testing_list\.txt"):
            _ = make(tmp_path / "mine", download=True).samples
    assert (tmp_path / "mine" / "note").read_text() == "mine"
