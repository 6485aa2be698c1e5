"""CREMA-D: names of recordings, whole actors, sounds that are decoded once, and wrong files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.crema_d import CremaD
from mmkd.data.catalogue import PARTS
from mmkd.data.media import Sounds
from mmkd.types import ConfigError
from tests.datamodules.publishers import MOODS, write_crema_d

PEERS = {f"phones/{i}": "audio" for i in range(2)}
ACTORS = 10


def make(folder: Path, **kwargs: Any) -> CremaD:
    given = {"peers": PEERS, "batch_size": 4, "audio": Sounds(rate=8000, seconds=0.2)}
    return CremaD(**{"folder": str(folder), "cache": str(folder / "cache"), **given, **kwargs})


def actors(rows: torch.Tensor) -> set[int]:
    """By their numbers: recordings are in the order of actors, six of each."""
    return {int(row) // len(MOODS) for row in rows}


def test_the_class_is_in_the_name_and_no_actor_in_two_parts(tmp_path: Path) -> None:
    """Of 60 recordings 6 and 12 are wanted, and of what is left a fifth.

    The middles of the first actors' are 3, 9 and 15: one lies below 6, two below 18. Of the 42 that are left 8.4
    are to be public: 3 lies below, and 9 does not.
    """
    write_crema_d(tmp_path, actors=ACTORS)
    data = make(tmp_path, val=0.1, test=0.2, public=0.2)
    assert data.samples.y.tolist() == list(range(6)) * ACTORS  # moods are in the order of their codes
    assert data.samples.classes == ["anger", "disgust", "fear", "happiness", "neutral", "sadness"]
    found = {name: actors(data.rows(name)) for name in PARTS}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == ACTORS
    assert {name: len(who) for name, who in found.items()} == {"train": 6, "val": 1, "test": 2, "public": 1}
    owned: list[Any] = [data.private(peer, "train") for peer in PEERS]
    whose = [actors(held.ids) for held in owned]
    assert not whose[0] & whose[1]
    assert whose[0] | whose[1] == found["train"]


def test_a_second_start_opens_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_crema_d(tmp_path, actors=3)
    x: Any = make(tmp_path).catalogue().views["audio"].whole()
    opened = []
    decode = Sounds.decode
    monkeypatch.setattr(Sounds, "decode", lambda self, path: opened.append(path.name) or decode(self, path))
    assert torch.equal(make(tmp_path).catalogue().views["audio"].whole(), x)  # type: ignore[arg-type]
    assert opened == []
    first, other = (tmp_path / "AudioWAV" / f"1001_DFA_{mood}_XX.wav" for mood in ("ANG", "DIS"))
    first.write_bytes(other.read_bytes())
    changed: Any = make(tmp_path).catalogue().views["audio"].whole()
    assert opened == [first.name]
    assert torch.equal(changed[0], x[1])
    assert torch.equal(changed[1:], x[1:])


@pytest.mark.parametrize(
    "name", ["1001_DFA_JOY_XX.wav", "1001_DFA_ANG_ZZ.wav", "dfa_ang.wav", "1001_DFA_ANG_XX.mp3"]
)
def test_names_that_say_no_emotion_are_refused(name: str, tmp_path: Path) -> None:
    write_crema_d(tmp_path, actors=1)
    (tmp_path / "AudioWAV" / "1001_DFA_FEA_XX.wav").rename(tmp_path / "AudioWAV" / name)
    with pytest.raises(
        ConfigError, match=r"is not called <actor>_<sentence>_<emotion>_<level>\.wav"
    ) as error:
        _ = make(tmp_path).samples
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("left", "said"), [(0, "is empty"), (30, "is cut off"), (900, "is cut off")])
def test_a_recording_that_is_cut_off_is_named(left: int, said: str, tmp_path: Path) -> None:
    write_crema_d(tmp_path, actors=1)
    path = tmp_path / "AudioWAV" / "1001_DFA_FEA_XX.wav"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ConfigError, match=rf"1001_DFA_FEA_XX\.wav {said}") as error:
        make(tmp_path).catalogue().views["audio"].whole()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", [True, False])
def test_a_missing_set_says_where_it_comes_from(folder: bool, tmp_path: Path) -> None:
    if folder:
        (tmp_path / "AudioWAV").mkdir()
    with pytest.raises(ConfigError, match=r"AudioWAV/\*\.wav is missing.*CheyneyComputerScience/CREMA-D"):
        _ = make(tmp_path).samples
