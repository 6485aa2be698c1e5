"""Recorded speech: always the same, kept on disk, and made again when the disk lies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from datamodules.speech import Recordings, Utterance, recordings
from mmkd.types import ConfigError

# Breathy and fluttering voices: what eSpeak NG draws differs from one utterance to the next.
SAID = [Utterance(text, voice) for voice in ("en-us+f3", "en+whisper") for text in ("one", "seven")]


def record(cache: Path, said: list[Utterance] = SAID, *, rate: int = 8000, samples: int = 8000) -> Recordings:
    return recordings.record(said, sample_rate=rate, samples=samples, cache=cache)


def same(one: Recordings, other: Recordings) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    record(folder)
    return folder


def test_the_same_list_always_sounds_the_same(folder: Path, tmp_path: Path) -> None:
    assert same(record(tmp_path), record(folder))


def test_what_was_said_is_read_not_said_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "_say_elsewhere", lambda said: pytest.fail("said again"))
    record(folder)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], lambda b: b""]
)
def test_a_damaged_file_is_replaced(folder: Path, tmp_path: Path, damage) -> None:
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    (tmp_path / path.name).write_bytes(damage(whole))
    assert same(record(tmp_path), record(folder))
    (repaired,) = tmp_path.iterdir()
    assert repaired.read_bytes() == whole


def test_processes_may_share_a_folder(folder: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(record, [tmp_path / "new", tmp_path / "new"]))
    assert all(same(one, record(folder)) for one in both)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [path.name for path in folder.iterdir()]


def test_sound_is_cut_at_both_ends_and_zeros_follow(folder: Path) -> None:
    wave, length = record(folder)
    assert wave.shape == (4, 8000)
    assert wave.dtype == torch.int16
    for row, end in zip(wave.int(), length.tolist(), strict=True):
        assert 1000 < end < 8000  # an eighth of a second to a second
        assert not row[end:].any()
        # It begins and ends where it first and last exceeds a fiftieth of its peak, give or take what
        # resampling smears: its filter reaches over some 2 * 6 samples.
        loud = (row.abs() > row.abs().max() / 50).nonzero()
        assert int(loud.min()) <= 24
        assert end - int(loud.max()) <= 24


def test_duration_is_in_seconds_and_too_long_is_cut_off(folder: Path, tmp_path: Path) -> None:
    slow, fast = record(folder), record(tmp_path, rate=16_000, samples=4000)
    assert ((2 * slow.length).clamp(max=4000) - fast.length).abs().max() <= 1
    assert fast.wave.shape == (4, 4000)
    assert (fast.length == 4000).any()


def test_rate_makes_it_short(tmp_path: Path) -> None:
    said = [Utterance("seven", "en-us", rate=rate) for rate in (100, 200, 300)]
    length = record(tmp_path, said).length
    assert (length.diff() < 0).all()


def test_a_voice_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no voice 'xx-nowhere'"):
        record(tmp_path, [Utterance("one", "xx-nowhere")])
    assert not list(tmp_path.iterdir())


def test_without_espeak_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(recordings, "version", missing)
    with pytest.raises(ConfigError, match=r"pip install 'mmkd\[digits\]'"):
        record(tmp_path)
