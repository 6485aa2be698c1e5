"""The days of a car park: cars come in the morning, stay for hours and leave, in sun and in rain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.random import Generator

from datamodules.parking.drawing import Shot, View
from datamodules.parking.geometry import SHAPES, SHARES, Car, Pinhole
from datamodules.parking.optics import lens_of, light_of
from datamodules.parking.sites import Site
from mmkd.functional.random import key

OPENS, CLOSES = 7 * 60 + 20, 18 * 60 + 20
"""First and last minute of the day at which frames are taken; it is dark at the last one."""
WEATHERS = ("SUNNY", "OVERCAST", "RAINY")
_PAINTS = [
    ((228, 229, 230), 0.22),
    ((168, 171, 174), 0.2),
    ((98, 102, 107), 0.17),
    ((34, 35, 38), 0.15),
    ((38, 62, 116), 0.09),
    ((146, 30, 32), 0.08),
    ((176, 160, 132), 0.03),
    ((44, 82, 62), 0.03),
    ((206, 176, 44), 0.015),
    ((88, 132, 172), 0.015),
]


class Moment(NamedTuple):
    """The day and minute at which a frame is taken, and the weather."""

    day: int
    minute: int  # of the day
    weather: str


class Stay(NamedTuple):
    """The stay of a car at one place, from one minute of a day to another."""

    place: int  # number of a slot; numbers after the last slot are places at the kerb
    begin: float
    end: float
    car: Car


class CarPark:
    """A car park, its cameras and its days; every frame can be drawn by itself.

    Args:
        site: the ground and everything that is built on it.
        cameras: the cameras, with their positions and directions.
        days: how many days the cameras watch.
        frames_per_day: how many frames each camera takes on a day.
        height: height of a frame in pixels.
        width: width of a frame in pixels.
        stream: keys everything that is drawn at random.
    """

    def __init__(
        self,
        site: Site,
        cameras: Sequence[Pinhole],
        *,
        days: int,
        frames_per_day: int,
        height: int,
        width: int,
        stream: int,
    ) -> None:
        self.site, self.days, self._stream = site, days, stream
        self.views = []
        for i, camera in enumerate(cameras):
            rng = self._rng("lens", i)
            self.views.append(View(site, camera, lens_of(rng), height, width, rng))
        self.moments: list[Moment] = []
        weather: list[str] = []
        for day in range(days):
            if not weather:  # each weather comes once before any comes again
                weather = [WEATHERS[int(k)] for k in self._rng("weather", day).permutation(3)]
            today = weather.pop()
            times = np.linspace(OPENS, CLOSES, frames_per_day)
            if frames_per_day < 3:  # few frames a day: at random hours, so that some are at dusk
                times = self._rng("times", day).choice(
                    np.arange(OPENS, CLOSES), frames_per_day, replace=False
                )
                times.sort()
            late = int(self._rng("late", day).integers(0, 16))
            self.moments += [Moment(day, int(t) + late, today) for t in times]
        self._days: dict[int, list[Stay]] = {}

    def occupied(self, moment: Moment) -> dict[int, Car]:
        """The cars in slots at a moment, by the number of the slot."""
        slots = len(self.site.slots)
        return {s.place: s.car for s in self._present(moment) if s.place < slots}

    def places(self, moment: Moment) -> Float[ndarray, "cars 3"]:
        """x, y and heading of all cars at a moment.

        Cars in slots come first, each in the middle of its slot and along it.
        """
        slots = len(self.site.slots)
        parked = [self.site.slots[s.place] for s in self._present(moment) if s.place < slots]
        others = [s.car for s in self._present(moment) if s.place >= slots] + self._strays(moment)
        return np.array([*parked, *((c.x, c.y, c.heading) for c in others)]).reshape(-1, 3)

    def shot(self, camera: int, moment: Moment) -> tuple[Shot, list[int]]:
        """The frame of a camera at a moment, and the slot of each car in it: -1 for a car in no slot."""
        slots = len(self.site.slots)
        stays = self._present(moment)
        cars = [s.car for s in stays] + self._strays(moment)
        places = [s.place if s.place < slots else -1 for s in stays]
        light = light_of(moment.weather, moment.minute / 60, self.site.north)
        rng = self._rng("sensor", camera, moment.day, moment.minute)
        return self.views[camera].draw(cars, light, rng), places + [-1] * (len(cars) - len(places))

    def _rng(self, *what: int | str) -> Generator:
        return np.random.default_rng(key(self._stream, *what))

    def _present(self, moment: Moment) -> list[Stay]:
        if moment.day not in self._days:
            self._days[moment.day] = self._stays(moment.day)
        return [s for s in self._days[moment.day] if s.begin <= moment.minute < s.end]

    def _stays(self, day: int) -> list[Stay]:
        """All stays of a day, which last for hours; there are fewer on some days, most of all at weekends."""
        rng = self._rng("day", day)
        busy = float(rng.uniform(0.5, 1.1)) * (0.35 if date_of(day).weekday() >= 5 else 1.0)
        places = np.concatenate([self.site.slots, self.site.kerb])
        liked = self._liked
        stays = []
        for place, (x, y, heading) in enumerate(places.tolist()):
            chance = busy * float(liked[place])
            time = (
                float(rng.normal(8.6 * 60, 75)) if rng.random() < chance else float(rng.uniform(9, 17) * 60)
            )
            if rng.random() < 0.05:
                time = 0.0  # the car stood there overnight
            while time < CLOSES + 60:
                long = float(rng.gamma(2.2, 110))
                if rng.random() < chance:
                    stays.append(Stay(place, time, time + long, _car(x, y, heading, rng)))
                time += long + float(rng.exponential(50))
        return stays

    @cached_property
    def _liked(self) -> Float[ndarray, " places"]:
        """The chance that each place is taken, which is greater at one end of the car park."""
        rng = self._rng("liked")
        places = np.concatenate([self.site.slots, self.site.kerb])
        way = rng.normal(0, 1, 2)
        near = places[:, :2] @ (way / np.linalg.norm(way))
        rank = (near - near.min()) / max(float(np.ptp(near)), 1e-6)
        return np.asarray(np.clip(0.95 - 0.5 * rank + rng.normal(0, 0.12, len(places)), 0.08, 0.98))

    def _strays(self, moment: Moment) -> list[Car]:
        """The cars that drive or wait in the aisles at a moment."""
        rng = self._rng("strays", moment.day, moment.minute)
        cars = []
        for y, heading in self.site.aisles:
            for _ in range(int(rng.poisson(0.45))):
                x = float(rng.uniform(-self.site.half[0], self.site.half[0]))
                turn = heading + (np.pi if rng.random() < 0.3 else 0.0)
                lane = float(rng.normal(0, 0.5)) - 0.4 * float(np.cos(turn))
                dark = moment.minute > 17 * 60 or moment.weather == "RAINY"
                car = _car(x, y + lane, turn, rng, turned=False)
                cars.append(car._replace(lights=bool(dark)))
        return cars


def date_of(day: int) -> date:
    """The date of a day by its number."""
    return date(2026, 10, 5) + timedelta(days=day)


def _car(x: float, y: float, heading: float, rng: Generator, *, turned: bool = True) -> Car:
    """A random car near a place, a little beside it and a little askew."""
    shape = int(rng.choice(len(SHAPES), p=SHARES))
    paint = (
        np.array(_PAINTS[int(rng.choice(len(_PAINTS), p=_ODDS))][0]) + rng.normal(0, 8) + rng.normal(0, 2, 3)
    )
    r, g, b = (int(c) for c in np.clip(paint, 12, 245))
    long, wide, tall = (float(s) for s in rng.uniform((0.93, 0.97, 0.96), (1.05, 1.03, 1.04)))
    if turned and rng.random() < 0.35:
        heading += np.pi  # tail first
    ahead, aside = float(rng.normal(0, 0.16)), float(rng.normal(0, 0.1))
    cos, sin = float(np.cos(heading)), float(np.sin(heading))
    x, y = x + ahead * cos - aside * sin, y + ahead * sin + aside * cos
    return Car(x, y, heading + float(rng.normal(0, 0.03)), shape, (long, wide, tall), (r, g, b))


_ODDS = np.array([share for _, share in _PAINTS]) / sum(share for _, share in _PAINTS)
