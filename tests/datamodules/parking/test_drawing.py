"""What cameras see and frames show, of scenes that are set up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from datamodules.parking.car_parks import car_park
from datamodules.parking.drawing import View
from datamodules.parking.geometry import SHAPES, Car, Pinhole, nominal, solids
from datamodules.parking.optics import Lens, light_of
from datamodules.parking.sites import Site, Style, lay_out
from datamodules.parking.slots import annotated, seen
from tests.datamodules.parking.small import SIZE

CLEAR = Lens((1.0, 1.0, 1.0), 0.0, 0.0, 0.0, 1.0)
ABOVE = Pinhole((0.0, -12.0, 9.0), np.pi / 2, np.arctan2(9, 12), 0.8)
"""12 m south of the middle and 9 m up, it looks at the middle, 15 m away."""


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
            for hour in (13.0, 18.4)
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
