"""Drawn car parks in the format of CNR-EXT: one that many cameras watch, and many that one camera sees."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from datamodules.parking.cnr_format import (
    CAR,
    FRAMES,
    FULL,
    OTHERS,
    SPLITS,
    TABLE,
    Box,
    Tree,
    cars_in,
    scaled,
)
from datamodules.parking.days import CLOSES, OPENS, CarPark, Moment, date_of
from datamodules.parking.drawing import View
from datamodules.parking.geometry import Pinhole
from datamodules.parking.sites import Site, Style, lay_out
from datamodules.parking.slots import annotated, seen
from mmkd.data.peers import PeerDataModule
from mmkd.data.samples import PublicSamples, Samples
from mmkd.functional.detection.boxes import EMPTY
from mmkd.functional.random import key
from mmkd.processes import each
from mmkd.types import ConfigError, PeerName

SHARE = {"val": 0.15, "test": 0.25}
"""Of the days, the last ones; the others are for training."""
SLOTS = (15, 45)
"""How many slots each camera of a car park has, at least and at most."""
QUALITY = 85
CARS = "cars.csv"
"""The cars in every frame of another place; a camera of CNR-EXT has labels for its slots only."""
COLUMNS = [
    *("camera", "datetime", "day", "hour", "image_url", "minute"),
    *("month", "occupancy", "slot_id", "weather", "year"),
]


def _pose(eye: tuple[float, float, float], aim: tuple[float, float], top: float, focal: float) -> Pinhole:
    """A camera that looks towards a place, the upper edge of its frame ``top`` radians below the horizon."""
    yaw = float(np.arctan2(aim[1] - eye[1], aim[0] - eye[0]))
    return Pinhole(eye, yaw, top + float(np.arctan(0.375 / focal)), focal)


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

    Raises:
        ConfigError: there are no frames, too many, or too few days for three splits.
    """
    _check(cameras=cameras, frames_per_day=frames_per_day, height=height, width=width)
    if days < len(SPLITS):
        raise ConfigError(f"{days} days cannot be split three ways by day; draw at least {len(SPLITS)}")
    stream = key(seed, "car park")
    site = lay_out(Style(), np.random.default_rng(key(stream, "site")))
    poses = [_around(site, i, cameras, np.random.default_rng(key(stream, "pose", i))) for i in range(cameras)]
    return CarPark(
        site, poses, days=days, frames_per_day=frames_per_day, height=height, width=width, stream=stream
    )


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} must be at least 1; it is {size}")
    if sizes["frames_per_day"] > CLOSES - OPENS:
        raise ConfigError(
            f"frames are a minute apart at least: frames_per_day is at most {CLOSES - OPENS}, not"
            f" {sizes['frames_per_day']}"
        )


def _around(site: Site, number: int, cameras: int, rng: Generator) -> Pinhole:
    """A camera on its stretch of the way around a car park; tried until it sees enough of it."""
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
    """Whether no tree and no lamp is close before a camera."""
    things = np.concatenate([site.trees[:, :2], site.posts[:, :2]])
    return len(things) == 0 or float(np.hypot(*(things - np.array(pose.place[:2])).T).min()) > 6.0


def place(number: int, *, days: int, frames_per_day: int, height: int, width: int, seed: int) -> CarPark:
    """A car park of any kind that one camera sees from anywhere."""
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


def _style(rng: Generator) -> Style:
    """Any car park but the one that is watched."""
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


def render(
    folder: str | Path,
    *,
    cameras: int = 9,
    days: int = 10,
    frames_per_day: int = 12,
    height: int = 150,
    width: int = 200,
    seed: int = 0,
    processes: int = 1,
) -> CarPark:
    """Draw one car park as its cameras see it, in the format that ``CnrExt`` reads.

    The first days are for training, the next for validation and the last for tests. The same arguments
    write the same bytes. Beside that, ``unlabelled.csv`` has the cars in sight of which no slot tells, which
    count neither as found nor as wrong.

    Args:
        folder: where to write; there must be nothing yet.
        cameras: how many, all around the car park.
        days: how many, at least three.
        frames_per_day: of each camera, from the morning into dusk.
        height: of frames, in pixels.
        width: of frames, in pixels; the view is 4 : 3 whatever they are.
        seed: draws the car park, its cameras and its days.
        processes: how many draw side by side, a camera at a time; they draw the same.

    Raises:
        ConfigError: an argument is out of range, or the folder is not empty.
    """
    park = car_park(
        cameras=cameras, days=days, frames_per_day=frames_per_day, height=height, width=width, seed=seed
    )
    root = _empty(folder)
    _write(root, park, splits_of(days))
    unlabelled = each(processes, partial(_camera, root, park), range(cameras))
    _write_cars(root / OTHERS, chain.from_iterable(unlabelled))
    return park


def render_general(
    folder: str | Path,
    *,
    places: int = 100,
    days: int = 3,
    frames_per_day: int = 2,
    height: int = 150,
    width: int = 200,
    seed: int = 0,
    processes: int = 1,
) -> None:
    """Draw many car parks of all kinds, each from one camera: ``place0000`` and so on, each in that format.

    Beside that, ``cars.csv`` has every car that is to be seen, in a slot or not, so that a detector learns
    from whole frames what a car is and what is none. The first places are for training, the next for
    validation and the last for tests, in the shares of days in ``render``.

    Args:
        folder: where to write; there must be nothing yet.
        places: how many, at least three.
        days: of each place.
        frames_per_day: of each place.
        height: of frames, in pixels.
        width: of frames, in pixels.
        seed: draws all of it.
        processes: how many draw side by side, a place at a time; they draw the same.

    Raises:
        ConfigError: an argument is out of range, or the folder is not empty.
    """
    _check(days=days, frames_per_day=frames_per_day, height=height, width=width)
    if places < len(SPLITS):
        raise ConfigError(f"{places} places cannot be split three ways; draw at least {len(SPLITS)}")
    sizes = {"days": days, "frames_per_day": frames_per_day, "height": height, "width": width, "seed": seed}
    numbered = enumerate(splits_of(places))
    list(each(processes, partial(_place, _empty(folder), sizes), numbered))


def splits_of(many: int) -> list[str]:
    """The split of each of at least three days (or places), in their order."""
    held = {split: max(1, round(share * many)) for split, share in SHARE.items()}
    return ["train"] * (many - sum(held.values())) + ["val"] * held["val"] + ["test"] * held["test"]


def _empty(folder: str | Path) -> Path:
    root = Path(folder)
    if root.exists() and any(root.iterdir()):
        raise ConfigError(
            f"'{folder}' is not empty; choose a new folder, so that no frames of others are in it"
        )
    return root


def _write(root: Path, park: CarPark, splits: Sequence[str]) -> None:
    """The slots, labels and splits of a car park."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "LABELS").mkdir()
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    with (root / TABLE).open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for number, view in enumerate(park.views, 1):
            with (root / f"camera{number}.csv").open("w", newline="") as slots:
                rows = csv.writer(slots, lineterminator="\n")
                rows.writerow(["SlotId", "X", "Y", "W", "H"])
                rows.writerows((slot + 1, *_pixels(box)) for slot, box in view.slots.items())
            for moment in park.moments:
                when, weather = date_of(moment.day), moment.weather
                hour, minute = divmod(moment.minute, 60)
                folder = f"{weather}/{when}/camera{number}"
                taken = park.occupied(moment)
                for slot in view.slots:
                    time, full = f"{when}_{hour:02d}.{minute:02d}", int(slot in taken)
                    patch = f"{folder}/{weather[0]}_{time}_C{number:02d}_{slot + 1}.jpg"
                    url = f"CNR-EXT/PATCHES/{patch}"
                    table.writerow(
                        (
                            number,
                            time,
                            when.day,
                            hour,
                            url,
                            minute,
                            when.month,
                            full,
                            slot + 1,
                            weather[0],
                            when.year,
                        )
                    )
                    lists[splits[moment.day]].append(f"{patch} {full}\n")
    for split, lines in lists.items():
        (root / "LABELS" / f"{split}.txt").write_text("".join(lines))


def _camera(root: Path, park: CarPark, camera: int) -> list[tuple[str, Box]]:
    """All frames of a camera; the cars in them without a label."""
    _draw(root, park, camera)
    return [
        (_frame(camera + 1, moment), box)
        for moment in park.moments
        for box in _others(park, park.views[camera], moment)
    ]


def _place(folder: Path, sizes: dict[str, int], numbered: tuple[int, str]) -> None:
    """Another place, all of one split."""
    number, split = numbered
    root, park = folder / f"place{number:04d}", place(number, **sizes)
    _write(root, park, [split] * sizes["days"])
    _draw(root, park, 0)
    (view,) = park.views
    cars = (
        (_frame(1, moment), box)
        for moment in park.moments
        for box in seen(park.site, view.camera, park.places(moment)).values()
    )
    _write_cars(root / CARS, cars)


def _draw(root: Path, park: CarPark, camera: int) -> None:
    for moment in park.moments:
        path = root / _frame(camera + 1, moment)
        path.parent.mkdir(parents=True, exist_ok=True)
        shot, _ = park.shot(camera, moment)
        Image.fromarray(shot.image).save(path, quality=QUALITY)


def _others(park: CarPark, view: View, moment: Moment) -> list[Box]:
    """Cars of which a camera sees a tenth and has no label: elsewhere, or in slots that it mostly misses."""
    slots = dict(enumerate(park.occupied(moment)))  # of the first places
    found = seen(park.site, view.camera, park.places(moment), inside=0.2, share=0.1)
    return [box for i, box in found.items() if slots.get(i) not in view.slots]


def _write_cars(path: Path, cars: Iterable[tuple[str, Box]]) -> None:
    """Frames, and boxes from 0 to 1."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["Frame", "X", "Y", "W", "H"])
        rows.writerows((frame, *_pixels(box)) for frame, box in cars)


def _frame(camera: int, moment: Moment) -> str:
    """Path of a frame in its folder."""
    when, (hour, minute) = date_of(moment.day), divmod(moment.minute, 60)
    return f"{FRAMES}/{moment.weather}/{when}/camera{camera}/{when}_{hour:02d}{minute:02d}.jpg"


def _pixels(box: Box) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels of a full frame."""
    x1, y1, x2, y2 = (round(v * size) for v, size in zip(box, FULL * 2, strict=True))
    return x1, y1, x2 - x1, y2 - y1


class GeneralScenes(PeerDataModule):
    """Cars in frames of many places, which every peer reads: what a detector for all car parks is trained on.

    Samples are as those of ``CnrExt``, but all cars have labels, so there are no ``KNOWN`` areas.

    Args:
        root: the folder that ``render_general`` wrote.
        height: of the frames that peers read, in pixels.
        width: of the frames that peers read, in pixels.
        kwargs: arguments of ``PeerDataModule``.

    Raises:
        ConfigError: there are no places in the folder, or one of them lacks its cars.
    """

    num_classes = 1
    modalities = ("image",)

    def __init__(self, *, root: str, height: int = 375, width: int = 500, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trees = [Tree(path, [1]) for path in sorted(Path(root).glob("place*"))]
        if not self.trees:
            raise ConfigError(
                f"there are no places in '{root}'; draw them with datamodules.parking.scenes.render_general"
            )
        if short := [tree.root for tree in self.trees if not (tree.root / CARS).is_file()]:
            raise ConfigError(f"'{short[0]}' has no {CARS}; draw all places anew, in an empty folder")
        self.height, self.width = height, width
        self._held: dict[str, Samples] = {}

    def private(self, peer: PeerName, split: str) -> Samples:
        """All frames of a split, place by place; one object for all peers."""
        if split not in self._held:
            paths = [[f.path for f in tree.frames[1][split]] for tree in self.trees]
            x = [t.images(p, self.height, self.width) for t, p in zip(self.trees, paths, strict=True)]
            cars = [c[path] for c, p in zip(self._cars, paths, strict=True) for path in p]
            y = torch.zeros(len(cars), max(len(c) for held in self._cars for c in held.values()), 5)
            y[..., 4] = EMPTY
            for own, boxes in zip(y, cars, strict=True):
                own[: len(boxes)] = torch.tensor([(*box, CAR) for box in boxes]).reshape(-1, 5)
            self._held[split] = Samples(torch.cat(x), y)
        return self._held[split]

    @cached_property
    def _cars(self) -> list[dict[str, list[Box]]]:
        """Boxes in each frame of each place."""
        found = []
        for tree in self.trees:
            cars = cars_in(tree.root / CARS)
            paths = [f.path for split in SPLITS for f in tree.frames[1][split]]
            found.append(
                {p: [scaled(box, self.height, self.width) for box in cars.get(p, ())] for p in paths}
            )
        return found

    def public(self, split: str) -> PublicSamples:
        """Nothing.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("GeneralScenes has no public frames; it is for a student that trains alone")

    def label_counts(self, peer: PeerName) -> Int[Tensor, " classes"]:
        """How many cars the training frames show, ``[1]``."""
        return (self.private(peer, "train").y[..., 4] > EMPTY).sum().reshape(1)
