"""UCI-HAR: two modalities of a window, whole people, students that read either, and wrong files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.uci_har import PUBLISHED, UciHar
from mmkd.cohort import Fleet
from mmkd.data.catalogue import PARTS
from mmkd.students import MotionStudent
from mmkd.types import ConfigError
from tests.datamodules.hybrids import check_a_round
from tests.datamodules.publishers import host, inside, write_uci_har, zipped

PEERS = {"phones/0": "acceleration", "phones/1": "acceleration", "watches/0": "rotation"}
TRAIN, TEST, ACTIVITIES = 10, 4, 6


def make(folder: Path, **kwargs: Any) -> UciHar:
    return UciHar(**{"folder": str(folder), "peers": PEERS, "batch_size": 3, **kwargs})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("har")
    write_uci_har(folder, train=TRAIN, test=TEST)
    return folder


def test_a_window_is_seen_along_and_about_three_axes(tmp_path: Path) -> None:
    signals = write_uci_har(tmp_path, train=TRAIN, test=TEST)
    samples = make(tmp_path).samples
    names = {
        "acceleration": [f"{signal}_{axis}" for signal in ("body_acc", "total_acc") for axis in "xyz"],
        "rotation": [f"body_gyro_{axis}" for axis in "xyz"],
    }
    for modality, channels in names.items():
        x: Any = samples.views[modality].whole()
        assert x.shape == ((TRAIN + TEST) * ACTIVITIES, len(channels), 128)
        for i, name in enumerate(channels):
            wanted = np.concatenate([signals[f"{name}_{part}"] for part in ("train", "test")])
            torch.testing.assert_close(x[:, i], torch.from_numpy(wanted).float(), rtol=1e-6, atol=1e-7)
    assert samples.classes[:2] == ["walking", "walking upstairs"]
    assert samples.y.tolist() == list(range(ACTIVITIES)) * (TRAIN + TEST)


def test_nobody_is_in_two_parts_and_peers_have_people_of_their_own(folder: Path) -> None:
    """Of ten people a fifth is two, and of the windows of eight a tenth is nearest to one's."""
    data = make(folder, val=0.1, public=0.2)
    people = {name: {int(row) // ACTIVITIES for row in data.rows(name)} for name in PARTS}
    assert {name: len(who) for name, who in people.items()} == {"train": 7, "val": 1, "test": 4, "public": 2}
    assert people["test"] == set(range(TRAIN, TRAIN + TEST))
    assert set.union(*people.values()) == set(range(TRAIN + TEST))
    owned: list[Any] = [data.private(peer, "train") for peer in PEERS]
    whose = [{int(row) // ACTIVITIES for row in held.ids} for held in owned]
    assert not whose[0] & whose[1]
    assert whose[0] | whose[1] == whose[2] == people["train"]


def test_students_name_the_modality_that_they_read(folder: Path) -> None:
    """A round of a hybrid: whoever feels acceleration and whoever feels rotation teach one another."""
    fleets = {
        "phones": Fleet(lambda n: MotionStudent(n, modality="acceleration", channels=6, width=4), 2),
        "watches": Fleet(lambda n: MotionStudent(n, modality="rotation", channels=3, width=4), 2),
    }
    check_a_round(make(folder, peers=None), fleets)


SIGNAL = "test/Inertial Signals/body_gyro_y_test.txt"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (SIGNAL, lambda b: b[:-1], "has 23 whole lines for 24 windows"),
        (SIGNAL, lambda b: b[b.index(b"\n") + 1 :], "has 23 whole lines for 24 windows"),
        (SIGNAL, lambda b: b[17:], "is not 24 lines of 128 finite numbers"),
        (SIGNAL, lambda b: b.replace(b"e+00", b"e+999", 1), "is not 24 lines of 128 finite numbers"),
        (SIGNAL, lambda b: b"x" + b, "holds something else than numbers"),
        ("train/y_train.txt", lambda b: b"7" + b[1:], "has '7' in line 1, where 1 to 6 are meant"),
        ("train/y_train.txt", lambda b: b"walk" + b[1:], "has 'walk' in line 1"),
        ("train/y_train.txt", lambda b: b"", "is empty"),
        ("train/subject_train.txt", lambda b: b"0" + b[1:], "has '0' in line 1, where numbers from 1 on"),
        ("test/subject_test.txt", lambda b: b[:-3], "has 23 people of 24 windows"),
        ("activity_labels.txt", lambda b: b[:-10], "does not number 6 activities from 1"),
    ],
)
def test_wrong_files_are_named(
    name: str, change: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    write_uci_har(tmp_path, train=3, test=4)
    path = tmp_path / "UCI HAR Dataset" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match=said) as error:
        _ = make(tmp_path).samples
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_changes_is_named(tmp_path: Path) -> None:
    write_uci_har(tmp_path, train=TRAIN, test=1)
    _ = make(tmp_path).samples
    path = tmp_path / "UCI HAR Dataset" / "train" / "y_train.txt"
    path.write_bytes(b"2" + path.read_bytes()[1:])
    with pytest.raises(ConfigError, match=r"y_train\.txt is another file than before"):
        _ = make(tmp_path).samples


@pytest.mark.parametrize("name", ["activity_labels.txt", "train/subject_train.txt", SIGNAL])
def test_a_missing_file_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    write_uci_har(tmp_path, train=1, test=1)
    (tmp_path / "UCI HAR Dataset" / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name} is missing.*archive\.ics\.uci\.edu.*download: true"):
        _ = make(tmp_path).samples


def test_it_is_fetched_as_an_archive_within_an_archive(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with host() as publisher:
        whole = zipped({"UCI HAR Dataset.zip": zipped(inside(folder)), "UCI HAR Dataset.names": b""})
        publisher.files["har.zip"] = whole
        assert PUBLISHED.archive is not None
        here = PUBLISHED._replace(archive=PUBLISHED.archive._replace(url=f"{publisher.url}/har.zip"))
        monkeypatch.setattr("datamodules.uci_har.PUBLISHED", here)
        data = make(tmp_path / "new", download=True)
        assert len(data.samples.y) == (TRAIN + TEST) * ACTIVITIES
