"""Drawn data sets as ``CnrExt`` reads them: labels that hold their cars, splits, and the same bytes again."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.cnr_ext import CnrExt
from datamodules.parking import GeneralScenes, car_park, render, render_general, rendering
from datamodules.parking.days import CarPark
from datamodules.parking.rendering import splits_of
from mmkd.functional.detection.boxes import KNOWN, UNLABELLED, iou
from mmkd.types import ConfigError
from tests.datamodules.digests import files
from tests.datamodules.parking.small import DRAWN, SIZE


def read(root: Path, **kwargs: Any) -> CnrExt:
    given = {"cameras": [1, 2], **SIZE, "peers": {"cameras/0": "image", "cameras/1": "image"}}
    return CnrExt(root=str(root), **{**given, **kwargs})


def test_what_is_written_is_read(drawn: tuple[Path, CarPark]) -> None:
    root, park = drawn
    data = read(root)
    assert not data.tree.published
    of_day = splits_of(DRAWN["days"])
    for number, peer in enumerate(data.peers):
        slots = park.views[number].slots
        for split in ("train", "val", "test"):
            moments = [m for m in park.moments if of_day[m.day] == split]
            samples = data.private(peer, split)
            assert len(samples) == len(moments)
            for moment, x, y in zip(moments, samples.x, samples.y, strict=True):
                taken = set(park.occupied(moment)) & set(slots)
                assert int((y[:, 4] == 0).sum()) == len(taken)
                assert int((y[:, 4] == KNOWN).sum()) == len(slots)
                scale = torch.tensor([80.0, 60.0, 80.0, 60.0])
                expected = torch.tensor([slots[i] for i in slots if i in taken]).reshape(-1, 4) * scale
                # Corners are rounded to pixels of a full frame: by at most half of 80 / 2592.
                error = (y[y[:, 4] == 0, :4] - expected).abs()
                assert (error <= 0.5 * 80 / 2592 + 1e-4).all()
                # JPEG loses something, but no frame is taken for another.
                shots = [park.shot(number, m)[0].image for m in moments]
                loss = [np.abs(shot.transpose(2, 0, 1) - x.numpy().astype(float)).mean() for shot in shots]
                assert moments[int(np.argmin(loss))] == moment
        counted = data.label_counts(peer)
        assert counted.tolist() == [int((data.private(peer, "train").y[..., 4] == 0).sum())]


def test_slots_hold_the_cars_that_are_in_them(drawn: tuple[Path, CarPark]) -> None:
    _, park = drawn
    overlap = []
    for moment in park.moments:
        for number, view in enumerate(park.views):
            shot, places = park.shot(number, moment)
            for standing, box in zip(places, shot.boxes, strict=True):
                if standing in view.slots:
                    slot = torch.tensor([view.slots[standing]]) * torch.tensor([80, 60, 80, 60])
                    overlap.append(float(iou(slot.double(), torch.from_numpy(box[None]))))
    assert len(overlap) > 100
    # Detections count as right from 0.5 on, and as precise from 0.75 on.
    assert min(overlap) > 0.5
    assert np.mean(overlap) > 0.75


def test_cars_that_no_label_tells_of_are_listed(drawn: tuple[Path, CarPark]) -> None:
    root, park = drawn
    data, of_day = read(root), splits_of(DRAWN["days"])
    seen_in: list[int] = []
    for number, peer in enumerate(data.peers):
        slots = park.views[number].slots
        moments = [m for m in park.moments if of_day[m.day] == "train"]
        for moment, y in zip(moments, data.private(peer, "train").y, strict=True):
            shot, where = park.shot(number, moment)
            others = y[y[:, 4] == UNLABELLED, :4].double()
            overlap = iou(others, torch.from_numpy(shot.boxes).double())
            of = [where[i] for i in overlap.argmax(1).tolist()] if len(others) else []
            assert not set(of) & set(slots)
            seen_in += of
    assert -1 in seen_in  # in an aisle or at a kerb
    assert max(seen_in) >= 0  # in a slot that is mostly hidden or outside


def test_splits_share_no_day(drawn: tuple[Path, CarPark]) -> None:
    data = read(drawn[0])
    days = {
        split: {frame.split("/")[2] for peer in data.peers for frame in data.frames_of(peer, split)}
        for split in ("train", "val", "test")
    }
    assert [len(days[split]) for split in days] == [2, 1, 1]  # 4 days: 0.6 and 1 are one, and 2.4 are left
    assert len(set().union(*days.values())) == 4
    assert max(days["train"]) < min(days["val"]) < min(days["test"])


def test_shares_of_days() -> None:
    assert [splits_of(20).count(split) for split in ("train", "val", "test")] == [12, 3, 5]
    for many in range(3, 50):
        assert set(splits_of(many)) == {"train", "val", "test"}
        assert len(splits_of(many)) == many


def render_both(folder: Path, *, processes: int = 1, seed: int = 0) -> tuple[str, str]:
    """Digests of a car park and of other places."""
    scenes, places = folder / "scenes", folder / "places"
    how = {"frames_per_day": 1, "seed": seed, **SIZE}
    render(scenes, car_park(cameras=2, days=3, **how), processes=processes)
    render_general(places, places=3, days=1, processes=processes, **how)
    return files(scenes), files(places)


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return render_both(tmp_path_factory.mktemp("here"))


def test_another_seed_draws_all_else(tmp_path: Path, digests: tuple[str, str]) -> None:
    scenes, places = render_both(tmp_path, seed=1)
    assert scenes != digests[0]
    assert places != digests[1]


def test_the_same_arguments_write_the_same_bytes_of_copies_that_processes_get(
    tmp_path: Path, digests: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(processes: int, do: Callable[[Any], Any], over: Iterable[Any]) -> Iterator[Any]:
        def copy(thing: Any) -> Any:
            return pickle.loads(pickle.dumps(thing))

        assert processes == 2
        return (copy(copy(do)(copy(one))) for one in over)

    monkeypatch.setattr(rendering, "each", copied)
    assert render_both(tmp_path, processes=2) == digests


@pytest.mark.long  # copies are all that processes get, and test_fresh_process.py draws in one
def test_several_processes_write_the_same_bytes(tmp_path: Path, digests: tuple[str, str]) -> None:
    assert render_both(tmp_path, processes=2) == digests


def test_what_cannot_be_drawn_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    park, new = car_park(cameras=1, days=3, frames_per_day=1, **SIZE), tmp_path / "new"
    for call, arguments, said in (
        (car_park, {"days": 2}, "2 days cannot be split three ways"),
        (car_park, {"cameras": 0}, "cameras must be at least 1"),
        (car_park, {"frames_per_day": 0}, "frames_per_day must be at least 1"),
        (car_park, {"frames_per_day": 2000}, "a minute apart"),
        (car_park, {"width": 0}, "width must be at least 1"),
        (render_general, {"folder": new, "places": 2}, "2 places cannot be split three ways"),
        (render_general, {"folder": new, "days": 0}, "days must be at least 1"),
        (render, {"folder": tmp_path / "full", "park": park}, "full' is not empty"),
        (render_general, {"folder": tmp_path / "full"}, "full' is not empty"),
    ):
        with pytest.raises(ConfigError, match=said):
            call(**arguments)  # type: ignore[operator]
    with pytest.raises(ConfigError, match="there are no places in"):
        GeneralScenes(root=str(tmp_path))
    render(tmp_path / "place0000", park)
    with pytest.raises(ConfigError, match=r"has no cars\.csv"):
        GeneralScenes(root=str(tmp_path))
    assert not new.exists()
