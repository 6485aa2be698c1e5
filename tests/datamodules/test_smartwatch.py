"""Exercises that a smartwatch felt: windows, parts of whole persons, peers that are arms, and wrong recordings."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.smartwatch import CHANNELS, CLASSES, SmartWatch
from mmkd.cohort import Fleet
from mmkd.data.catalogue import PARTS
from mmkd.data.partition import IID
from mmkd.students import MotionStudent
from mmkd.types import ConfigError
from tests.datamodules.hybrids import check_a_round

PEOPLE, SHORTEST = 10, 40
PEERS = {f"watches/{i}": "motion" for i in range(10)}


def recordings() -> dict[str, Any]:
    """As seglearn gives them: each person once with either arm at every exercise, recordings of two lengths.

    Each number is that of its recording, but for the first column, which counts moments.
    """
    who = [(person, side, y) for person in range(PEOPLE) for side in (0, 1) for y in range(len(CLASSES))]
    series = [np.full((SHORTEST + 10 * (i % 2), CHANNELS), float(i)) for i in range(len(who))]
    for one in series:
        one[:, 0] = np.arange(len(one))
    person, side, y = (np.array(column) for column in zip(*who, strict=True))
    names = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
    axes = ["ax", "ay", "az", "wx", "wy", "wz"]
    return {
        "X": series,
        "y": y,
        "subject": person + 1,
        "side": side * 1.0,
        "y_labels": names,
        "X_labels": axes,
    }


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What stands for seglearn gives these."""
    found = recordings()
    module: Any = ModuleType("seglearn.datasets")
    module.load_watch = lambda: found
    monkeypatch.setitem(sys.modules, "seglearn", ModuleType("seglearn"))
    monkeypatch.setitem(sys.modules, "seglearn.datasets", module)
    return found


def make(**kwargs: Any) -> SmartWatch:
    return SmartWatch(**{"peers": PEERS, "window": 16, "batch_size": 4, **kwargs})


def test_windows_are_cut_from_recordings(given: dict[str, Any]) -> None:
    """A recording of n moments has (n - window) // step + 1 windows, each the moments that follow its first."""
    data = make(window=16, step=12)
    x: Any = data.samples.views["motion"].whole()
    row = 0
    for number, series in enumerate(given["X"]):
        for first in range(0, len(series) - 16 + 1, 12):
            assert x[row, 0].tolist() == list(range(first, first + 16))
            assert (x[row, 1:] == number).all()
            assert data.samples.y[row] == given["y"][number]
            row += 1
    assert row == len(x)
    assert x.shape[1:] == (CHANNELS, 16)


def test_windows_overlap_by_half_if_nothing_is_said(given: dict[str, Any]) -> None:
    x: Any = make(window=16).samples.views["motion"].whole()
    assert (x[1, 0] - x[0, 0]).tolist() == [8.0] * 16


def persons(data: SmartWatch, rows: torch.Tensor) -> set[int]:
    """Whose windows they are, by the number of the recording that each holds."""
    x: Any = data.samples.views["motion"].whole()
    return {int(number) // (2 * len(CLASSES)) for number in x[rows, 1, 0]}


@pytest.mark.parametrize("seed", [0, 1])
def test_nobody_is_in_two_parts(given: dict[str, Any], seed: int) -> None:
    """Of ten people a tenth is one, and a fifth two."""
    data = make(seed=seed, val=0.1, test=0.2, public=0.2)
    found = {name: persons(data, data.rows(name)) for name in PARTS}
    assert {name: len(who) for name, who in found.items()} == {"train": 5, "val": 1, "test": 2, "public": 2}
    assert set.union(*found.values()) == set(range(PEOPLE))


def test_every_arm_is_a_peer(given: dict[str, Any]) -> None:
    """Five people train, who have ten arms; each peer has every exercise of one arm."""
    data = make()
    arms = []
    for peer in PEERS:
        held: Any = data.private(peer, "train")
        (arm,) = {int(number) // len(CLASSES) for number in held.x[:, 1, 0]}
        arms.append(arm)
        assert held.y.unique().tolist() == list(range(len(CLASSES)))
    assert len(set(arms)) == len(PEERS)
    with pytest.raises(ConfigError, match="10 groups cannot be dealt to 11 peers"):
        make(peers={f"watches/{i}": "motion" for i in range(11)}).private("watches/0", "train")


def test_peers_may_be_people_or_a_partition(given: dict[str, Any]) -> None:
    five = {f"watches/{i}": "motion" for i in range(5)}
    data = make(whole="person", peers=five)
    owned = [persons(data, held.ids) for peer in five if (held := data.private(peer, "train"))]
    assert sorted(map(len, owned)) == [1] * 5
    assert len(set.union(*owned)) == 5
    dealt = make(partition=IID(), peers=five)
    sizes = [dealt.samples_of(peer) for peer in five]
    assert max(sizes) - min(sizes) <= 1


def test_peers_learn_a_round_of_a_hybrid(given: dict[str, Any]) -> None:
    fleets = {
        "watches": Fleet(lambda n: MotionStudent(n, width=4), 2),
        "bands": Fleet(lambda n: MotionStudent(n, width=4), 1),
    }
    check_a_round(make(peers=None), fleets)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y_labels": ["PEN"]}, "its exercises are PEN"),
        ({"y": np.zeros(3)}, "140 recordings have 3 labels"),
        ({"X": [], "y": [], "subject": [], "side": []}, "0 recordings"),
        ({"X": [np.zeros((SHORTEST, 5))] * 140}, "recording 0 is not 6 columns of finite numbers"),
        ({"X": [np.zeros(SHORTEST)] * 140}, "recording 0 is not 6 columns of finite numbers"),
        ({"X": [np.full((SHORTEST, 6), np.nan)] * 140}, "recording 0 is not 6 columns of finite numbers"),
        ({"X": [["a"]] * 140}, "ValueError"),
        ({"y": np.full(140, 7)}, "recording 0 is of exercise 7"),
        ({"y": np.full(140, -1)}, "recording 0 is of exercise -1"),
        ({"side": np.full(140, 2)}, "with arm 2"),
        ({"X": None}, "TypeError"),
    ],
)
def test_other_recordings_are_refused(given: dict[str, Any], change: dict[str, Any], said: str) -> None:
    given.update(change)
    with pytest.raises(ConfigError, match=said) as error:
        make().private("watches/0", "train")
    assert "install --force-reinstall seglearn" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_entries_are_refused(given: dict[str, Any]) -> None:
    del given["subject"]
    with pytest.raises(ConfigError, match=r"watch_dataset\.npy is not what it was \(KeyError: 'subject'\)"):
        make().private("watches/0", "train")


@pytest.mark.parametrize("left", [0, 5, 100, -10])
def test_a_file_that_is_cut_off_is_named(
    given: dict[str, Any], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dictionary in an array of objects, as seglearn keeps it."""
    path = tmp_path / "watch_dataset.npy"
    np.save(path, np.array(given, dtype=object), allow_pickle=True)
    path.write_bytes(path.read_bytes()[:left])
    load: Any = lambda: np.load(path, allow_pickle=True).item()  # noqa: E731
    monkeypatch.setattr(sys.modules["seglearn.datasets"], "load_watch", load)
    with pytest.raises(ConfigError, match=r"watch_dataset\.npy is not what it was") as error:
        make().private("watches/0", "train")
    assert "\n" not in str(error.value)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seglearn.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmkd\[sets\]'"):
        make().private("watches/0", "train")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"window": 0}, "window must"),
        ({"step": 0}, "step must"),
        ({"step": -1}, "step must"),
        ({"whole": "leg"}, "whole is arm or person"),
        ({"val": 1.5}, "val must"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"window": SHORTEST + 1},
            f"a window of {SHORTEST + 1} moments is longer than a recording of {SHORTEST}",
        ),
        ({"val": 0.04}, r"val of 0\.04 is no person of 10"),
        ({"public": 0.03}, r"public of 0\.03 is no person of 10"),
        ({"val": 0.0}, "no sample is left for val"),
        ({"val": 0.4, "test": 0.4, "public": 0.2}, "no sample is left for train"),
    ],
)
def test_what_leaves_nothing_is_refused(given: dict[str, Any], arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(**arguments).private("watches/0", "train")


def test_a_window_may_be_a_whole_recording(given: dict[str, Any]) -> None:
    assert len(make(window=SHORTEST).samples.y) == 140  # the longer ones end 10 before a second step


def test_nothing_need_be_public(given: dict[str, Any]) -> None:
    data = make(public=0.0)
    assert len(data.rows("public")) == 0
    assert len(persons(data, data.rows("train"))) == 7


def test_the_recordings_of_seglearn() -> None:
    """140 of ten people, at rest an acceleration of one unit of gravity."""
    pytest.importorskip("seglearn")
    data = make(window=200)
    x: Any = data.samples.views["motion"].whole()
    assert 0.9 < x[:, :3].norm(dim=1).median() < 1.1
    assert {name: len(data.samples.group[data.rows(name)].unique()) for name in PARTS} == {  # type: ignore[index]
        "train": 10,
        "val": 2,
        "test": 4,
        "public": 4,
    }
