"""Drawn car parks: cameras by hand, boxes that hold their cars, days like days, and the format they are in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from datamodules.cnr_ext import CnrExt
from datamodules.parking.days import CarPark, Moment, date_of
from datamodules.parking.drawing import View
from datamodules.parking.geometry import SHAPES, Car, Pinhole, nominal, solids
from datamodules.parking.optics import Lens, light_of
from datamodules.parking.scenes import (
    SLOTS,
    GeneralScenes,
    car_park,
    place,
    render,
    render_general,
    splits_of,
)
from datamodules.parking.sites import Site, Style, lay_out
from datamodules.parking.slots import annotated, seen
from mmkd.functional.detection.boxes import EMPTY, KNOWN, UNLABELLED, iou
from mmkd.types import ConfigError

SIZE = {"height": 60, "width": 80}
DRAWN: dict[str, Any] = {"cameras": 2, "days": 4, "frames_per_day": 3, "seed": 3, **SIZE}
CLEAR = Lens((1.0, 1.0, 1.0), 0.0, 0.0, 0.0, 1.0)
ABOVE = Pinhole((0.0, -12.0, 9.0), np.pi / 2, np.arctan2(9, 12), 0.8)
"""12 m south of the middle and 9 m up, it looks at the middle, 15 m away."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CarPark]:
    root = tmp_path_factory.mktemp("scenes") / "park"
    return root, render(root, **DRAWN)


@pytest.fixture(scope="module")
def bare() -> Site:
    """Two rows and nothing that stands."""
    site = lay_out(Style(rows=2, columns=8, islands=0.0), np.random.default_rng(0))
    return site._replace(trees=np.zeros((0, 4)), posts=np.zeros((0, 3)))


@pytest.fixture(scope="module")
def clear(bare: Site) -> View:
    return View(bare, ABOVE, CLEAR, 150, 200, np.random.default_rng(0))


def car(x: float, y: float, heading: float = 0.0, shape: int = 0) -> Car:
    return Car(x, y, heading, shape, (1.0, 1.0, 1.0), (235, 30, 200))


def noon(weather: str) -> Any:
    return light_of(weather, 12.25, 0.0)


def read(root: Path, **kwargs: Any) -> CnrExt:
    given = {"cameras": [1, 2], **SIZE, "peers": {"cameras/0": "image", "cameras/1": "image"}}
    return CnrExt(root=str(root), **{**given, **kwargs})


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(root.rglob("*.*")):
        total.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return total.hexdigest()


def test_a_camera_sees_points_where_they_are() -> None:
    straight = Pinhole((1.0, 2.0, 5.0), 0.0, 0.0, 0.5)
    # 10 m ahead, 2 m to the right (south of east) and 1 m below: half a width times 2 / 10, and 4 / 3 of
    # half a width, in heights, times 1 / 10.
    uv, ahead = straight.project(np.array([11.0, 0.0, 4.0]))
    assert uv == pytest.approx([0.5 + 0.5 * 0.2, 0.5 + 4 / 3 * 0.5 * 0.1])
    assert ahead == pytest.approx(10)
    uv, ahead = ABOVE.project(np.zeros(3))
    assert uv == pytest.approx([0.5, 0.5])
    assert ahead == pytest.approx(15)


def test_the_ground_is_the_inverse_of_seeing_it() -> None:
    points = np.random.default_rng(0).uniform(-6, 6, (20, 2))
    uv, _ = ABOVE.project(np.concatenate([points, np.zeros((20, 1))], 1))
    x, y, w = ABOVE.ground() @ np.concatenate([uv, np.ones((20, 1))], 1).T
    assert np.stack([x / w, y / w], 1) == pytest.approx(points)
    assert (w > 0).all()
    horizon = 0.5 - 0.8 * 4 / 3 * 9 / 12  # the pitch's tangent
    assert (ABOVE.ground() @ (0.3, horizon, 1.0))[2] == pytest.approx(0, abs=1e-12)


def test_cars_are_closed_and_as_large_as_cars() -> None:
    for shape in SHAPES.values():
        length, width, height = np.ptp(shape.faces.reshape(-1, 3), axis=0)
        assert 3.5 < length < 5.5
        assert 1.6 < width < 2.1
        assert 1.3 < height < 2.2
        assert shape.faces[..., 2].min() == pytest.approx(0, abs=0.02)  # on its wheels
        assert np.linalg.norm(shape.normals, axis=1) == pytest.approx(1)
        outward = (shape.normals * (shape.faces.mean(1) - (0, 0, 0.7))).sum(1)
        assert (outward > 0).all()
    turned = solids([car(3.0, 4.0, np.pi / 2)])
    assert np.ptp(turned.corners[..., 1]) == pytest.approx(np.ptp(SHAPES["sedan"].faces[..., 0]))
    assert turned.corners.reshape(-1, 3)[:, 1].mean() == pytest.approx(4, abs=1)


def test_a_slot_holds_the_car_that_it_is_made_for() -> None:
    corners = nominal(np.array([(2.0, 3.0, np.pi / 2)]))[0]
    assert corners.min(0) == pytest.approx([2 - 1.8 / 2, 3 - 4.35 / 2, 0.05])
    assert corners.max(0) == pytest.approx([2 + 1.8 / 2, 3 + 4.35 / 2, 1.5])


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_boxes_are_those_of_what_is_painted(clear: View, shape: int) -> None:
    """Of a car in a colour that nothing else has: its pixels reach its box, and none is beyond."""
    shot = clear.draw([car(0.5, 1.0, 0.6, shape)], noon("OVERCAST"), np.random.default_rng(0))
    empty = clear.draw([], noon("OVERCAST"), np.random.default_rng(0))
    painted = (shot.image.astype(int) - empty.image)[..., 0] > 25  # red goes up; in the shadow it goes down
    y, x = np.nonzero(painted)
    # Wheels are dark and below the body by up to 0.3 m: 0.3 of 0.8 * 200 pixels at 13 m is 3.7 of them.
    assert [x.min(), y.min(), x.max() + 1] == pytest.approx(shot.boxes[0][:3].tolist(), abs=2)
    assert -4.5 < y.max() + 1 - shot.boxes[0][3] < 2
    assert empty.boxes.shape == (0, 4)


def test_a_car_at_the_border_is_cut_and_one_behind_is_not_there(clear: View) -> None:
    # In the middle row the frame ends 15 * 0.5 / 0.8 m to either side.
    edge = 15 * 0.5 / 0.8
    boxes = clear.draw(
        [car(-edge, 0.0), car(edge, 0.0), car(0.0, -30.0), car(0.0, -12.0), car(3 * edge, 0.0)],
        noon("SUNNY"),
        np.random.default_rng(0),
    ).boxes
    assert boxes[0, 0] == 0
    assert 5 < boxes[0, 2] < 100
    assert boxes[1, 2] == 200
    assert 100 < boxes[1, 0] < 195
    assert ((boxes[2:, 2] - boxes[2:, 0]) * (boxes[2:, 3] - boxes[2:, 1]) == 0).all()


def test_shadows_fall_away_from_the_sun(clear: View) -> None:
    # The sun is highest, at 40 degrees, when half the day has passed, and in the west (-x) later.
    assert noon("SUNNY").sun[2] == pytest.approx(np.sin(np.radians(40)))
    lights = {"sun": light_of("SUNNY", 16.5, 0.0), "cloud": light_of("OVERCAST", 16.5, 0.0)}
    sun = lights["sun"].sun
    assert sun[0] < -0.5
    # The shadow of the roof, 1.45 m high, ends that much further east than the roof, which is 0.7 m wide
    # to either side.
    there = 0.7 + 0.6 * 1.45 * -sun[0] / sun[2]
    lit, bare = (
        {kind: clear.draw(cars, light, np.random.default_rng(0)).image for kind, light in lights.items()}
        for cars in ([car(0.0, 0.0, np.pi / 2)], [])
    )

    def change(kind: str, x: float) -> float:
        uv, _ = ABOVE.project(np.array([x, 0.0, 0.0]))
        u, v = (uv * (200, 150)).astype(int)
        return float(lit[kind][v, u].mean() / bare[kind][v, u].mean())

    assert change("sun", there) < 0.7
    assert change("sun", -there) == pytest.approx(1, abs=0.03)
    assert change("cloud", there) == pytest.approx(1, abs=0.03)


def test_it_grows_dark_and_rain_takes_the_contrast(clear: View) -> None:
    cars = [car(0.0, 0.0), car(3.0, 4.0)]
    for weather in ("SUNNY", "OVERCAST", "RAINY"):
        day, dusk = (
            clear.draw(cars, light_of(weather, hour, 0.0), np.random.default_rng(0)).image
            for hour in (13, 18.4)
        )
        assert dusk.mean() < 0.6 * day.mean()
    sunny, rainy = (clear.draw(cars, noon(w), np.random.default_rng(0)).image for w in ("SUNNY", "RAINY"))
    assert rainy.std() < sunny.std()


def test_headlights_shine_in_the_dark_only(clear: View) -> None:
    towards = car(0.0, 3.0, -np.pi / 2)
    for hour, brighter in ((13.0, False), (18.4, True)):
        light = light_of("OVERCAST", hour, 0.0)
        off, on = (
            clear.draw([towards._replace(lights=lit)], light, np.random.default_rng(0)).image.astype(int)
            for lit in (False, True)
        )
        uv, _ = ABOVE.project(np.array([0.0, -2.0, 0.0]))  # on the ground before it
        u, v = (uv * (200, 150)).astype(int)
        assert ((on - off)[v, u].mean() > 10) == brighter


def test_hidden_and_small_slots_are_not_annotated(bare: Site) -> None:
    seen = annotated(bare, ABOVE)
    slot = min(seen, key=lambda i: float(np.hypot(*bare.slots[i, :2])))
    x, y, _ = bare.slots[slot]
    eye = np.array(ABOVE.place)
    half_way = (eye + np.array([x, y, 0.7])) / 2
    hidden = annotated(bare._replace(trees=np.array([(*half_way[:2], 1.6, half_way[2])])), ABOVE)
    assert slot in seen
    assert slot not in hidden
    assert 0 < len(hidden) < len(seen)
    behind = (x, y) + 2 * (np.array([x, y]) - eye[:2]) / np.hypot(*(np.array([x, y]) - eye[:2]))
    assert slot in annotated(bare._replace(trees=np.array([(*behind, 1.6, 4.0)])), ABOVE)
    # 600 m away a car, 4.7 m from corner to corner, is at most 0.8 * 4.7 / 580 = 1 / 154 of a width.
    far = ABOVE._replace(place=(0.0, -480.0, 360.0))
    assert annotated(bare, far) == {}
    for x1, y1, x2, y2 in seen.values():
        assert 0 <= x1 < x2 <= 1
        assert 0 <= y1 < y2 <= 1
        assert x2 - x1 >= 1 / 60


def test_what_cars_hide_is_not_seen(bare: Site) -> None:
    # From 9 m up and 12 m away, a car close behind another is half seen; from 1.2 m above the ground it is not.
    row = np.array([(0.0, 0.0, np.pi / 2), (0.0, 4.9, np.pi / 2)])
    low = ABOVE._replace(place=(0.0, -12.0, 1.2), pitch=0.0)
    assert set(seen(bare, ABOVE, row)) == {0, 1}
    assert set(seen(bare, low, row)) == {0}
    assert set(seen(bare, low, row[1:])) == {0}
    # A post hides no more than its width, however it leans in the frame.
    post = np.array([(0.3, -2.0, 7.0)])
    assert set(seen(bare._replace(posts=post), ABOVE, row)) == {0, 1}
    # A tenth of it in sight is enough where that is asked for: its roof, over that of the one before it.
    assert set(seen(bare, low._replace(place=(0.0, -12.0, 2.2)), row)) == {0}
    assert set(seen(bare, low._replace(place=(0.0, -12.0, 2.2)), row, share=0.1)) == {0, 1}


def test_nine_cameras_see_parts_of_one_car_park() -> None:
    park = car_park(days=3, frames_per_day=1, **SIZE)
    assert len(park.views) == 9
    assert 60 <= len(park.site.slots) <= 160
    parts = [frozenset(view.slots) for view in park.views]
    assert all(SLOTS[0] <= len(part) <= SLOTS[1] for part in parts)
    assert len(set(parts)) == 9
    places = np.array([view.camera.place for view in park.views])
    apart = np.linalg.norm(places[:, None] - places, axis=2) + 100 * np.eye(9)
    assert apart.min() > 1


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


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path) -> None:
    few: dict[str, Any] = {"cameras": 1, "days": 3, "frames_per_day": 1, **SIZE}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        render(tmp_path / name, seed=seed, **few)
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c
    sizes = {"places": 3, "days": 1, "frames_per_day": 1, **SIZE}
    for name, seed in (("d", 0), ("e", 0), ("f", 1)):
        render_general(tmp_path / name, seed=seed, **sizes)
    d, e, f = (digest(tmp_path / name) for name in "def")
    assert d == e
    assert d != f


def test_several_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for processes in (1, 2):
        scenes, places = tmp_path / f"scenes{processes}", tmp_path / f"places{processes}"
        render(scenes, cameras=2, days=3, frames_per_day=1, processes=processes, **SIZE)
        render_general(places, places=3, days=1, frames_per_day=1, processes=processes, **SIZE)
    assert digest(tmp_path / "scenes1") == digest(tmp_path / "scenes2")
    assert digest(tmp_path / "places1") == digest(tmp_path / "places2")


def test_drawing_leaves_global_generators_alone() -> None:
    state, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    park = car_park(cameras=1, days=3, frames_per_day=1, **SIZE)
    park.shot(0, park.moments[0])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == legacy).all()


def test_a_frame_does_not_depend_on_those_before_it() -> None:
    first, second = (car_park(cameras=1, days=3, frames_per_day=2, **SIZE) for _ in range(2))
    last = first.moments[-1]
    for moment in first.moments:
        image = first.shot(0, moment)[0].image
    assert (second.shot(0, last)[0].image == image).all()


def test_cars_stay_for_hours_and_days_differ() -> None:
    park = car_park(cameras=1, days=6, frames_per_day=12, **SIZE)
    same, other = [], []
    for before, after in zip(park.moments, park.moments[1:], strict=False):
        a, b = park.occupied(before), park.occupied(after)
        share = np.mean([a[slot] is b.get(slot) for slot in a]) if a else 1.0
        (same if before.day == after.day else other).append((len(a), share))
    weights, shares = np.array(same).T
    # A stay of 4 hours on average is over within an hour in less than half of all cases.
    assert np.average(shares, weights=weights) > 0.5
    assert max(share for cars, share in other if cars) == 0
    noon_, dawn = (
        [len(park.occupied(m)) for m in park.moments if abs(m.minute - t) < 60] for t in (720, 450)
    )
    assert np.mean(noon_) > np.mean(dawn)
    assert {m.weather for m in park.moments[:36]} == {
        "SUNNY",
        "OVERCAST",
        "RAINY",
    }  # three days, all weathers
    assert len({(m.day, m.minute) for m in park.moments}) == 72


def test_cars_are_also_outside_of_slots(drawn: tuple[Path, CarPark]) -> None:
    _, park = drawn
    outside = [places.count(-1) for m in park.moments for _, places in [park.shot(0, m)]]
    assert sum(outside) > 0


def test_weekends_are_quiet() -> None:
    assert [date_of(day).weekday() for day in (0, 5, 6)] == [0, 5, 6]
    park = car_park(cameras=1, days=7, frames_per_day=1, **SIZE)
    noons = [len(park.occupied(Moment(day, 12 * 60, "SUNNY"))) for day in range(7)]
    # At most 1.1 * 0.35 of the chance against at least 0.5.
    assert np.mean(noons[5:]) < np.mean(noons[:5])


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("general") / "places"
    render_general(root, places=5, days=2, frames_per_day=1, seed=1, **SIZE)
    return root


def test_general_scenes_pool_places_and_share_none(general: Path) -> None:
    data = GeneralScenes(root=str(general), **SIZE, peers={"oracle": "image", "other": "image"})
    assert len(data.trees) == 5
    # 0.75 of 5 places is one, 1.25 is one, and three are left.
    sizes = {"train": 3 * 2, "val": 2, "test": 2}
    shapes = set()
    for split, size in sizes.items():
        samples = data.private("oracle", split)
        assert samples.x.shape == (size, 3, 60, 80)
        assert samples is data.private("other", split)
        shapes.add(samples.y.shape[1:])
    assert len(shapes) == 1
    train, cars, annotated_, found, free = data.private("oracle", "train"), 0, 0, 0, 0
    for k, tree in enumerate(data.trees[:3]):
        alone = CnrExt(root=str(tree.root), cameras=[1], **SIZE, peers={"one": "image"})
        own = alone.private("one", "train")
        assert torch.equal(train.x[2 * k : 2 * k + 2], own.x)
        park = place(k, days=2, frames_per_day=1, seed=1, **SIZE)
        for n, moment in enumerate(park.moments):
            y = train.y[2 * k + n]
            boxes = y[y[:, 4] == 0, :4]
            cars += len(boxes)
            assert (y[len(boxes) :, 4] == EMPTY).all()  # and nothing is KNOWN: the whole frame is
            # A car in an annotated slot has a label, unless one that waits in the aisle hides it.
            slots = own.y[n][own.y[n, :, 4] == 0, :4]
            annotated_ += len(slots)
            found += int((box_iou(slots, boxes).amax(1) > 0.99).sum()) if len(slots) else 0
            # A label is where a car is, and cars in no slot have labels, too.
            shot, where = park.shot(0, moment)
            overlap = box_iou(boxes, torch.from_numpy(shot.boxes).float())
            assert (overlap.amax(1) > 0.5).all()
            free += int((torch.tensor(where)[overlap.argmax(1)] == -1).sum())
    assert annotated_ > 20
    assert found >= 0.9 * annotated_
    assert free > 0
    assert data.label_counts("oracle").tolist() == [cars]
    assert cars > 0
    with pytest.raises(ConfigError, match="has no public frames"):
        data.public("train")


def test_what_cannot_be_drawn_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for call, arguments, said in (
        (render, {"days": 2}, "2 days cannot be split three ways"),
        (render, {"cameras": 0}, "cameras must be at least 1"),
        (render, {"frames_per_day": 0}, "frames_per_day must be at least 1"),
        (render, {"frames_per_day": 2000}, "a minute apart"),
        (render, {"width": 0}, "width must be at least 1"),
        (render_general, {"places": 2}, "2 places cannot be split three ways"),
        (render_general, {"days": 0}, "days must be at least 1"),
        (render, {"folder": tmp_path / "full", "cameras": 1, "days": 3}, "full' is not empty"),
        (render_general, {"folder": tmp_path / "full"}, "full' is not empty"),
    ):
        where = arguments.pop("folder", tmp_path / "new")
        with pytest.raises(ConfigError, match=said):
            call(where, **arguments)  # type: ignore[operator]
    with pytest.raises(ConfigError, match="there are no places in"):
        GeneralScenes(root=str(tmp_path))
    render(tmp_path / "place0000", cameras=1, days=3, frames_per_day=1, **SIZE)
    with pytest.raises(ConfigError, match=r"has no cars\.csv"):
        GeneralScenes(root=str(tmp_path))
    assert not (tmp_path / "new").exists()
