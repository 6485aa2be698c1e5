"""Draws data sets in the folder format of CNR-EXT: one car park for many cameras, or many for one each."""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path

from datamodules.parking.car_parks import check_sizes, place
from datamodules.parking.cnr_format import CARS, OTHERS, SPLITS, Box
from datamodules.parking.cnr_writing import frame_path, write_cars, write_frames, write_labels
from datamodules.parking.days import CarPark, Moment
from datamodules.parking.drawing import View
from datamodules.parking.slots import seen
from mmkd.processes import each
from mmkd.types import ConfigError

SHARE = {"val": 0.15, "test": 0.25}
"""Shares of the days (or places) for validation and for tests, in this order, after those for training."""


def render(folder: str | Path, park: CarPark, *, processes: int = 1) -> None:
    """Draw a car park as its cameras see it, in the format that ``CnrExt`` reads.

    The first days are for training, the next for validation and the last for tests. The same car park
    writes the same bytes. The file ``unlabelled.csv`` lists cars that a camera sees and that stand in no slot
    of its labels; a detector that finds one of them is neither right nor wrong.

    Args:
        folder: folder to write into, which must be empty or absent.
        park: what is drawn, such as ``car_park()``.
        processes: how many processes draw side by side, each a camera at a time; no byte depends on it.

    Raises:
        ConfigError: the folder is not empty.
    """
    root = _empty(folder)
    write_labels(root, park, splits_of(park.days))
    unlabelled = each(processes, partial(_camera, root, park), range(len(park.views)))
    write_cars(root / OTHERS, chain.from_iterable(unlabelled))


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
    """Draw many car parks of all kinds, each from one camera, as data sets that ``GeneralScenes`` reads.

    The folders ``place0000``, ``place0001``, ... each have the format of ``render``. In each of them the file
    ``cars.csv`` lists every car in sight, in a slot or not, so that a detector learns from whole frames what
    a car is and what is none. The first places are for training, the next for validation and the last for
    tests, in the shares in which ``render`` splits days.

    Args:
        folder: folder to write into, which must be empty or absent.
        places: how many car parks there are, at least three.
        days: how many days each of them is watched.
        frames_per_day: how many frames of it are taken on a day.
        height: height of a frame in pixels.
        width: width of a frame in pixels.
        seed: keys everything that is drawn at random.
        processes: how many processes draw side by side, each a place at a time; no byte depends on it.

    Raises:
        ConfigError: an argument is out of range, or the folder is not empty.
    """
    check_sizes(days=days, frames_per_day=frames_per_day, height=height, width=width)
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
    """The folder's path, if the folder is empty or absent."""
    root = Path(folder)
    if root.exists() and any(root.iterdir()):
        raise ConfigError(
            f"'{folder}' is not empty; choose a new folder, so that no frames of others are in it"
        )
    return root


def _camera(root: Path, park: CarPark, camera: int) -> list[tuple[str, Box]]:
    """Write all frames of one camera; returns frame and box of each car in them that has no label."""
    write_frames(root, park, camera)
    return [
        (frame_path(camera + 1, moment), box)
        for moment in park.moments
        for box in _others(park, park.views[camera], moment)
    ]


def _place(folder: Path, sizes: dict[str, int], numbered: tuple[int, str]) -> None:
    """Write one of the many car parks: its number, and the split that all its frames belong to."""
    number, split = numbered
    root, park = folder / f"place{number:04d}", place(number, **sizes)
    write_labels(root, park, [split] * sizes["days"])
    write_frames(root, park, 0)
    (view,) = park.views
    cars = (
        (frame_path(1, moment), box)
        for moment in park.moments
        for box in seen(park.site, view.camera, park.places(moment)).values()
    )
    write_cars(root / CARS, cars)


def _others(park: CarPark, view: View, moment: Moment) -> list[Box]:
    """Boxes of cars of which a camera sees a tenth at least and which stand in none of its slots."""
    slots = dict(enumerate(park.occupied(moment)))  # ``places`` begins with the cars in slots
    found = seen(park.site, view.camera, park.places(moment), inside=0.2, share=0.1)
    return [box for i, box in found.items() if slots.get(i) not in view.slots]
