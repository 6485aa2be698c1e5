"""Reads the folder format of CNR-EXT (cnrpark.it): frames, and which slots are occupied in them."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mmkd.functional.detection.boxes import EMPTY, KNOWN, UNLABELLED
from mmkd.types import ConfigError

FULL = (2592, 1944)
"""Width and height in pixels of the full frames; tables give slots and cars in these pixels."""
FRAMES = "FULL_IMAGE_1000x750"
"""Name of the folder of frames."""
TABLE = "CNRPark+EXT.csv"
"""Name of the table that says which slots are occupied."""
OTHERS = "unlabelled.csv"
"""Name of the table of cars in no labelled slot, which drawn data have and the published data lack."""
CARS = "cars.csv"
"""Name of the table of all cars in sight, which only data drawn by ``render_general`` have."""
PUBLISHED = (18_132_695, "26416454cb8b184006431d0c149d31beabb8ef65d8eb2212cf4a39914a470dc8")
"""Size in bytes and SHA-256 of the published table of occupied slots."""
SPLITS = ("train", "val", "test")
CAR = 0
"""Class of a car in the labels of samples."""
_PATCH = re.compile(
    r"(?P<weather>SUNNY|OVERCAST|RAINY)/(?P<day>\d{4}-\d\d-\d\d)/camera(?P<camera>\d+)/"
    r"[A-Z]_(?P=day)_(?P<hour>\d\d)\.(?P<minute>\d\d)_C0*(?P=camera)_(?P<slot>\d+)\.jpg$"
)
_WHERE = (
    "it is laid out as published at http://cnrpark.it (ODbL 1.0): CNR-EXT_FULL_IMAGE_1000x750.tar unpacks to"
    f" camera1.csv ... camera9.csv and {FRAMES}/, {TABLE} lies beside them, and LABELS/ comes out of"
    " CNR-EXT-Patches-150x150.zip"
)


Box = tuple[float, float, float, float]
"""A rectangle in a frame as four numbers; each function says which four."""
_BOX: dict[str, Callable[[str], object]] = dict.fromkeys("XYWH", float)


class Patch(NamedTuple):
    """One slot in one frame, as the name of a published image patch identifies it."""

    camera: int
    frame: str  # path of the frame in the folder
    slot: int


class Frame(NamedTuple):
    """A frame, and which of its labelled slots are occupied."""

    path: str  # in the folder
    occupied: dict[int, bool]  # by the number of the slot


class Tree:
    """A folder in the format of CNR-EXT: the slots, frames and splits of some of its cameras.

    Images are read when they are asked for. A table that has the published size must have the published
    checksum, too; a table of any other size belongs to other data in the same format (``published`` says
    which of the two). A table that was cut short is refused, for it lacks patches that the splits list.
    Beside the published files there may be a table of cars in no labelled slot (``OTHERS``).

    Attributes:
        root: the folder.
        slots: left, top, width and height of each camera's slots in pixels of a full frame.
        frames: the frames of each camera and split, in order of time.
        published: whether the table is the published one.

    Args:
        root: the folder.
        cameras: numbers of the cameras to read.

    Raises:
        ConfigError: the folder is not there, not whole, or contradicts itself.
    """

    def __init__(self, root: str | Path, cameras: Sequence[int]) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ConfigError(f"there is no folder '{root}'; {_WHERE}")
        if not cameras:
            raise ConfigError("cameras lists none; name at least one, or leave it out for all nine")
        if repeated := [n for n in cameras if list(cameras).count(n) > 1]:
            raise ConfigError(f"camera {repeated[0]} is listed twice; a camera has one peer")
        self.slots = {n: self._slots(n) for n in cameras}
        self.published = False
        self.frames: dict[int, dict[str, list[Frame]]] = {n: {split: [] for split in SPLITS} for n in cameras}
        labels = self._labels()
        split_of = self._splits(labels)
        missing = []
        for path, (camera, occupied) in sorted(labels.items()):
            if path not in split_of:
                continue
            if (self.root / path).exists():
                self.frames[camera][split_of[path]].append(Frame(path, occupied))
            else:
                missing.append(path)
        for n, of_split in self.frames.items():
            if not any(of_split.values()):
                raise ConfigError(
                    f"camera {n} has no frame in '{self.root / FRAMES}' that {TABLE} labels and LABELS/ list;"
                    " leave it out of cameras, or unpack its frames"
                )
            for frames in of_split.values():  # paths sort by weather first
                frames.sort(key=lambda frame: Path(frame.path).name)
        if missing:
            warnings.warn(
                f"{len(missing)} frames have labels but are not in '{root}', such as {missing[0]}; they are"
                " left out",
                stacklevel=3,
            )

    @property
    def rows(self) -> int:
        """Rows that ``truth`` needs for the fullest frame: one for each slot, its car and each other car."""
        frames = [f for of in self.frames.values() for fs in of.values() for f in fs]
        return max(2 * len(f.occupied) + len(self._others.get(f.path, ())) for f in frames)

    def boxes(self, camera: int, height: int, width: int) -> dict[int, Box]:
        """Corners ``x1, y1, x2, y2`` of a camera's slots in pixels of frames of that size, cut at the border.

        Raises:
            ConfigError: a slot lies outside of the frame.
        """
        found = {}
        for slot, (x, y, w, h) in self.slots[camera].items():
            x1, y1, x2, y2 = box = scaled((x, y, w, h), height, width)
            if x1 >= x2 or y1 >= y2:
                raise ConfigError(
                    f"slot {slot} of camera{camera}.csv has no area within {FULL[0]} x {FULL[1]} pixels:"
                    f" X={x:g}, Y={y:g}, W={w:g}, H={h:g}"
                )
            found[slot] = box
        return found

    def truth(
        self, camera: int, split: str, height: int, width: int, rows: int
    ) -> Float[Tensor, "frames rows 5"]:
        """Labels of the frames of a camera and split: corners of a box in pixels, and its class, in each row.

        Every labelled slot is a row of class ``KNOWN``, every car in one is a row of class ``CAR``, every
        other car is a row of class ``UNLABELLED``, and the rows that are left are ``EMPTY``.

        Raises:
            ConfigError: a frame has a label for a slot that its camera lacks.
        """
        boxes, frames = self.boxes(camera, height, width), self.frames[camera][split]
        truth = torch.zeros(len(frames), rows, 5)
        truth[..., 4] = EMPTY
        for own, frame in zip(truth, frames, strict=True):
            known = [(*boxes[slot], KNOWN) for slot in frame.occupied]
            cars = [(*boxes[slot], CAR) for slot, occupied in frame.occupied.items() if occupied]
            others = [(*scaled(box, height, width), UNLABELLED) for box in self._others.get(frame.path, ())]
            own[: len(known) + len(cars) + len(others)] = torch.tensor(known + cars + others)
        return truth

    @cached_property
    def _others(self) -> dict[str, list[Box]]:
        path = self.root / OTHERS
        return cars_in(path) if path.exists() else {}

    def image(self, path: str, height: int, width: int) -> UInt8[ndarray, "3 height width"]:
        """One frame, resized to height and width in pixels.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            with Image.open(self.root / path) as file:
                file.draft("RGB", (width, height))  # decode at a reduced size where that is enough
                image = file.convert("RGB")
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise ConfigError(f"'{self.root / path}' is no whole JPEG ({error}); unpack it again") from error
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).transpose(2, 0, 1)

    def images(self, paths: Sequence[str], height: int, width: int) -> UInt8[Tensor, "frames 3 height width"]:
        """Frames, resized to height and width in pixels.

        Raises:
            ConfigError: a file cannot be read.
        """
        held = np.empty((len(paths), 3, height, width), dtype=np.uint8)  # torch would copy on many threads
        for i, path in enumerate(paths):
            held[i] = self.image(path, height, width)
        return torch.from_numpy(held)

    def _slots(self, camera: int) -> dict[int, Box]:
        path = self.root / f"camera{camera}.csv"
        return {int(row["SlotId"]): _box(row) for row in _rows(path, {"SlotId": float} | _BOX)}

    def _labels(self) -> dict[str, tuple[int, dict[int, bool]]]:
        """The camera of each frame, by its path, and which of its slots are occupied."""
        path = self.root / TABLE
        if path.exists() and path.stat().st_size == PUBLISHED[0]:
            if sha256(path.read_bytes()).hexdigest() != PUBLISHED[1]:
                raise ConfigError(
                    f"'{path}' has the size of the published table and not its SHA-256; get it again"
                )
            self.published = True
        labels: dict[str, tuple[int, dict[int, bool]]] = {}
        for row in _rows(path, dict.fromkeys(("camera", "image_url", "occupancy"), len)):
            if row["camera"] in ("A", "B"):
                continue  # a patch of CNRPark, another data set in the same table
            patch, occupied = _patch(row["image_url"], path), _flag(row["occupancy"], path)
            if patch.camera not in self.slots:
                continue
            if patch.slot not in self.slots[patch.camera]:
                raise ConfigError(
                    f"{TABLE} has a label for slot {patch.slot} ({row['image_url']}), which"
                    f" camera{patch.camera}.csv lacks; the two do not belong together"
                )
            labels.setdefault(patch.frame, (patch.camera, {}))[1][patch.slot] = occupied
        return labels

    def _splits(self, labels: dict[str, tuple[int, dict[int, bool]]]) -> dict[str, str]:
        """The split of each frame, by its path: that which lists its patches."""
        split_of: dict[str, str] = {}
        for split in SPLITS:
            path = self.root / "LABELS" / f"{split}.txt"
            if not path.exists():
                raise ConfigError(f"there is no '{path}', the published list of a split; {_WHERE}")
            for line in path.read_text().splitlines():
                if not line.strip():
                    continue
                name, _, label = line.strip().rpartition(" ")
                patch, occupied = _patch(name, path), _flag(label, path)
                if patch.camera not in self.slots:
                    continue
                _, known = labels.get(patch.frame, (0, dict[int, bool]()))
                if known.get(patch.slot) is not occupied:
                    said = "has no row for it" if patch.slot not in known else "says otherwise"
                    raise ConfigError(
                        f"'{path}' has the line '{line.strip()}', but {TABLE} {said}; get both again"
                    )
                if split_of.setdefault(patch.frame, split) != split:
                    raise ConfigError(
                        f"frame {patch.frame} is in two splits, {split_of[patch.frame]} and {split};"
                        " mend the lists in LABELS/"
                    )
        return split_of


def cars_in(path: Path) -> dict[str, list[Box]]:
    """The cars of each frame in a table, by the frame's path in the folder.

    Returns:
        Left, top, width and height of each car in pixels of a full frame.

    Raises:
        ConfigError: the table is not there, or one of its rows is malformed.
    """
    found: dict[str, list[Box]] = {}
    for row in _rows(path, {"Frame": len} | _BOX):
        found.setdefault(row["Frame"], []).append(_box(row))
    return found


def _box(row: Mapping[str, str]) -> Box:
    return float(row["X"]), float(row["Y"]), float(row["W"]), float(row["H"])


def scaled(box: Box, height: int, width: int) -> Box:
    """Corners in a frame of that size, cut at its border, of left, top, width and height in a full frame."""
    (x, y, w, h), right, low = box, width / FULL[0], height / FULL[1]
    x1, x2 = max(x * right, 0.0), min((x + w) * right, float(width))
    y1, y2 = max(y * low, 0.0), min((y + h) * low, float(height))
    return x1, y1, x2, y2


def _rows(path: Path, columns: Mapping[str, Callable[[str], object]]) -> Iterator[dict[str, str]]:
    """The rows of a table, which must have these columns; each function raises on a malformed entry."""
    if not path.exists():
        raise ConfigError(f"there is no '{path}'; {_WHERE}")
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if lacking := [name for name in columns if name not in (table.fieldnames or [])]:
            raise ConfigError(
                f"'{path}' has no column {lacking[0]}; its header must name {', '.join(columns)}"
            )
        for row in table:
            try:
                for name, takes in columns.items():
                    takes(row[name])
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"line {table.line_num} of '{path}' is no row of {', '.join(columns)}"
                ) from error
            yield row


def _patch(name: str, path: Path) -> Patch:
    """The slot and frame that the name of a patch identifies; ``path`` is the file that has the name."""
    match = _PATCH.search(name)
    if match is None:
        raise ConfigError(
            f"'{path}' names a patch '{name}'; a name is like SUNNY/2015-11-22/camera6/"
            "S_2015-11-22_09.47_C06_205.jpg"
        )
    weather, day, camera, hour, minute, slot = match.groups()
    number = int(camera)
    return Patch(number, f"{FRAMES}/{weather}/{day}/camera{number}/{day}_{hour}{minute}.jpg", int(slot))


def _flag(text: str, path: Path) -> bool:
    if text not in ("0", "1", "0.0", "1.0"):
        raise ConfigError(f"'{path}' says that a slot's occupancy is '{text}'; it must be 0 or 1")
    return text[0] == "1"
