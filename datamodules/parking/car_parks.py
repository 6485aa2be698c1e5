"""Car parks to be drawn, with their cameras: one with many cameras, or random ones with one each."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from datamodules.parking.cnr_format import SPLITS
from datamodules.parking.days import CLOSES, OPENS, CarPark
from datamodules.parking.geometry import Pinhole
from datamodules.parking.sites import Site, Style, lay_out
from datamodules.parking.slots import annotated
from mmkd.functional.random import key
from mmkd.types import ConfigError

SLOTS = (15, 45)
"""How many annotated slots each camera of ``car_park`` has, at least and at most."""


def car_park(
    *,
    cameras: int = 9,
    days: int = 10,
    frames_per_day: int = 12,
    height: int = 150,
    width: int = 200,
    seed: int = 0,
) -> CarPark:
    """One car park with cameras all around it.

    Args:
        cameras: how many cameras watch it.
        days: how many days they watch it, at least three.
        frames_per_day: how many frames each camera takes on a day, from the morning into dusk.
        height: height of a frame in pixels.
        width: width of a frame in pixels; the view is 4 : 3 whatever height and width are.
        seed: keys the random draws of the car park, its cameras and its days.

    Raises:
        ConfigError: there are no frames, too many, or too few days for three splits.
    """
    check_sizes(cameras=cameras, frames_per_day=frames_per_day, height=height, width=width)
    if days < len(SPLITS):
        raise ConfigError(f"{days} days cannot be split three ways by day; draw at least {len(SPLITS)}")
    stream = key(seed, "car park")
    site = lay_out(Style(), np.random.default_rng(key(stream, "site")))
    poses = [_around(site, i, cameras, np.random.default_rng(key(stream, "pose", i))) for i in range(cameras)]
    return CarPark(
        site, poses, days=days, frames_per_day=frames_per_day, height=height, width=width, stream=stream
    )


def place(number: int, *, days: int, frames_per_day: int, height: int, width: int, seed: int) -> CarPark:
    """A car park in a random style with one camera at a random position.

    Args:
        number: number of the car park among those of one seed.
        days: how many days the camera watches.
        frames_per_day: how many frames it takes on a day.
        height: height of a frame in pixels.
        width: width of a frame in pixels.
        seed: keys everything that is drawn at random, together with the number.
    """
    stream = key(seed, "place", number)
    rng = np.random.default_rng(key(stream, "site"))
    while True:
        style = _style(rng)
        site = lay_out(style, rng)
        half = np.array(site.half)
        for _ in range(20):
            turn = float(rng.uniform(0, 2 * np.pi))
            way = np.array([np.cos(turn), np.sin(turn)])
            edge = way / np.abs(way / (half + float(rng.uniform(-6, 7)))).max()
            eye = (float(edge[0]), float(edge[1]), float(rng.uniform(4, 15)))
            aim = edge * float(rng.uniform(-0.2, 0.6)) + rng.normal(0, 6, 2)
            focal = float(rng.uniform(0.6, 1.5))
            pose = _pose(eye, (float(aim[0]), float(aim[1])), float(rng.uniform(0.02, 0.5)), focal)
            if _open(site, pose) and 12 <= len(annotated(site, pose)) <= 60:
                return CarPark(
                    site,
                    [pose],
                    days=days,
                    frames_per_day=frames_per_day,
                    height=height,
                    width=width,
                    stream=stream,
                )


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1, and more frames in a day (``frames_per_day``) than it has minutes.

    Raises:
        ConfigError: a size is out of range.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} must be at least 1; it is {size}")
    if sizes["frames_per_day"] > CLOSES - OPENS:
        raise ConfigError(
            f"frames are a minute apart at least: frames_per_day is at most {CLOSES - OPENS}, not"
            f" {sizes['frames_per_day']}"
        )


def _pose(eye: tuple[float, float, float], aim: tuple[float, float], top: float, focal: float) -> Pinhole:
    """A camera that looks towards a point, the upper edge of its frame ``top`` radians below the horizon."""
    yaw = float(np.arctan2(aim[1] - eye[1], aim[0] - eye[0]))
    return Pinhole(eye, yaw, top + float(np.arctan(0.375 / focal)), focal)


def _around(site: Site, number: int, cameras: int, rng: Generator) -> Pinhole:
    """A camera on its share of a car park's edge, drawn again until it sees enough slots (``SLOTS``)."""
    half = np.array(site.half)
    while True:
        turn = 2 * np.pi * (number + float(rng.uniform(0.15, 0.85))) / cameras
        way = np.array([np.cos(turn), np.sin(turn)])
        edge = way / np.abs(way / (half + float(rng.uniform(-3, 4)))).max()
        eye = (float(edge[0]), float(edge[1]), float(rng.uniform(8.5, 13)))
        aim = edge * float(rng.uniform(-0.1, 0.45)) + rng.normal(0, 8, 2)
        pose = _pose(
            eye, (float(aim[0]), float(aim[1])), float(rng.uniform(0.14, 0.28)), float(rng.uniform(0.75, 1.1))
        )
        if _open(site, pose) and SLOTS[0] <= len(annotated(site, pose)) <= SLOTS[1]:
            return pose


def _open(site: Site, pose: Pinhole) -> bool:
    """Whether no tree and no lamp stands within six metres of a camera."""
    things = np.concatenate([site.trees[:, :2], site.posts[:, :2]])
    return len(things) == 0 or float(np.hypot(*(things - np.array(pose.place[:2])).T).min()) > 6.0


def _style(rng: Generator) -> Style:
    """A random style of car park; that of ``car_park`` is fixed."""
    grey, warm = float(rng.uniform(70, 165)), float(rng.normal(0, 8))
    asphalt = (round(grey + warm), round(grey), round(grey - warm))
    red = int(rng.integers(70, 125))
    return Style(
        rows=int(rng.choice([2, 4, 6])),
        columns=int(rng.integers(7, 21)),
        angle=float(rng.choice([0, 45, 60, 75, 90, 90])),
        asphalt=asphalt if rng.random() < 0.85 else (round(grey) + 30, round(grey * 0.8), round(grey * 0.7)),
        paint=[(222, 222, 216), (222, 222, 216), (206, 178, 62), (120, 150, 190)][int(rng.integers(4))],
        grass=(red, red + int(rng.integers(-12, 28)), int(red * rng.uniform(0.6, 0.95))),
        rough=float(rng.uniform(0.5, 1.6)),
        islands=float(rng.uniform(0, 0.16)),
        leaves=[(66, 88, 48), (84, 100, 52), (128, 104, 46), (44, 70, 52)][int(rng.integers(4))],
    )
