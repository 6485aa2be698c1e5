"""Car parks and their days: where cameras hang, when cars come and go, and which weather there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.parking.car_parks import SLOTS, car_park
from datamodules.parking.days import CarPark, Moment, date_of
from tests.datamodules.parking.small import SIZE


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
