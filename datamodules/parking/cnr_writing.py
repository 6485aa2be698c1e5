"""Writes a drawn car park as files in the folder format of CNR-EXT, which ``cnr_format`` reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from datamodules.parking.cnr_format import FRAMES, FULL, SPLITS, TABLE, Box
from datamodules.parking.days import CarPark, Moment, date_of

QUALITY = 85
"""Quality of JPEG files, from 1 to 95."""
COLUMNS = [
    *("camera", "datetime", "day", "hour", "image_url", "minute"),
    *("month", "occupancy", "slot_id", "weather", "year"),
]
"""Header of the table of labels."""


def write_labels(root: Path, park: CarPark, splits: Sequence[str]) -> None:
    """Write the slots of each camera, which of them are occupied in each frame, and the lists of the splits.

    Args:
        root: folder of the data set; it is made.
        park: the car park.
        splits: the split of each day.
    """
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


def write_frames(root: Path, park: CarPark, camera: int) -> None:
    """Draw and write all frames of one camera, which is counted from 0."""
    for moment in park.moments:
        path = root / frame_path(camera + 1, moment)
        path.parent.mkdir(parents=True, exist_ok=True)
        shot, _ = park.shot(camera, moment)
        Image.fromarray(shot.image).save(path, quality=QUALITY)


def write_cars(path: Path, cars: Iterable[tuple[str, Box]]) -> None:
    """Write a table of cars: the path of each one's frame, and its box with corners from 0 to 1."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["Frame", "X", "Y", "W", "H"])
        rows.writerows((frame, *_pixels(box)) for frame, box in cars)


def frame_path(number: int, moment: Moment) -> str:
    """Path of a frame in the folder; ``number`` counts cameras from 1, as the format does."""
    when, (hour, minute) = date_of(moment.day), divmod(moment.minute, 60)
    return f"{FRAMES}/{moment.weather}/{when}/camera{number}/{when}_{hour:02d}{minute:02d}.jpg"


def _pixels(box: Box) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels of a full frame, of corners from 0 to 1."""
    x1, y1, x2, y2 = (round(v * size) for v, size in zip(box, FULL * 2, strict=True))
    return x1, y1, x2 - x1, y2 - y1
