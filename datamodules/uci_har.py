"""UCI-HAR (Anguita et al. 2013): what people do, as the telephone on their waist feels it.

The set is under CC BY 4.0 on the page of UCI's repository (DOI 10.24432/C54S4K); its README asks to be
cited and forbids commercial use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.fetching import Archive
from datamodules.published import Published, numbered
from mmkd.data.catalogue import PARTS, Catalogue, Held
from mmkd.data.catalogued import CatalogueData
from mmkd.types import Modality

INSIDE = "UCI HAR Dataset"
"""The folder of the archive."""
CLASSES = 6
"""How many activities there are."""
WINDOW = 128
"""Moments of a sample: 2.56 s at 50 a second; half of them are the next sample's, too."""
SIGNALS: dict[Modality, tuple[str, ...]] = {
    "acceleration": ("body_acc", "total_acc"),
    "rotation": ("body_gyro",),
}
"""Signals of each modality, each along or about three axes, x, y and z."""
PUBLISHED = Published(
    "UCI-HAR",
    "https://archive.ics.uci.edu/dataset/240/human+activity+recognition+using+smartphones",
    f"the folder '{INSIDE}'",
    Archive(
        "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip",
        top=INSIDE,
        into=INSIDE,
        inner=f"{INSIDE}.zip",
    ),
)
"""Where the set comes from."""


class UciHar(CatalogueData):
    """UCI-HAR: 10,299 windows of six activities of thirty people, 2.56 s each, 50 moments a second.

    - acceleration ``[6, 128]`` float, in units of gravity: that of the body along three axes, and that with
      gravity in it;
    - rotation ``[3, 128]`` float, in radians per second, about three axes.

    Tests are the published ones, of nine people. Nobody is in two parts: validation and public samples are
    those of some of the 21 others, and each peer of a modality has people of its own, unless a partition is
    given. ``MotionStudent`` reads either: ``modality: acceleration`` with six channels, or ``rotation`` with
    three.

    Args:
        folder: with ``UCI HAR Dataset``, in which ``activity_labels.txt`` and the folders train and test lie,
            from https://archive.ics.uci.edu/dataset/240/human+activity+recognition+using+smartphones.
        public: share of the people for training whose windows are public.
        download: whether the set is fetched from there (58 MB), if that is missing.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: a file is missing or wrong, when the data are first read.
    """

    num_classes = CLASSES
    modalities = tuple(SIGNALS)

    def __init__(self, *, folder: str, download: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder, self.download = Path(folder), download

    def catalogue(self) -> Catalogue:
        """All windows: those for training, then those for tests.

        Raises:
            ConfigError: a file is missing or wrong, or cannot be fetched.
        """
        PUBLISHED.get(self.folder, f"{INSIDE}/activity_labels.txt", download=self.download)
        within = self.folder / INSIDE
        labels = [line.split() for line in PUBLISHED.lines(within, "activity_labels.txt")]
        if [label[0] for label in labels] != [str(i + 1) for i in range(CLASSES)]:
            raise PUBLISHED.wrong(
                within, "activity_labels.txt", f"does not number {CLASSES} activities from 1"
            )
        y, person, parts = list[int](), list[str](), list[int]()
        views: dict[Modality, list[Tensor]] = {modality: [] for modality in SIGNALS}
        for name in ("train", "test"):
            found = [label - 1 for label in _numbers(within, f"{name}/y_{name}.txt", CLASSES)]
            who = _numbers(within, f"{name}/subject_{name}.txt", None)
            if len(who) != len(found):
                raise PUBLISHED.wrong(
                    within, f"{name}/subject_{name}.txt", f"has {len(who)} people of {len(found)} windows"
                )
            for modality, signals in SIGNALS.items():
                views[modality].append(_signals(within, name, signals, len(found)))
            y += found
            person += map(str, who)
            parts += [PARTS.index(name)] * len(found)
        group = numbered(person)
        return Catalogue(
            classes=[" ".join(label[1:]).lower().replace("_", " ") for label in labels],
            y=torch.tensor(y),
            views={modality: Held(torch.cat(both)) for modality, both in views.items()},
            shown={modality: torch.ones(len(y), dtype=torch.bool) for modality in views},
            part=torch.tensor(parts),
            group=group,
        )


def _numbers(within: Path, name: str, most: int | None) -> list[int]:
    """A whole number of each line, from 1 to ``most``."""
    found = []
    for i, line in enumerate(PUBLISHED.lines(within, name)):
        if not line.isdecimal() or int(line) < 1 or (most is not None and int(line) > most):
            numbers = "numbers from 1 on are" if most is None else f"1 to {most} are"
            raise PUBLISHED.wrong(within, name, f"has '{line[:20]}' in line {i + 1}, where {numbers} meant")
        found.append(int(line))
    return found


def _signals(
    within: Path, part: str, signals: tuple[str, ...], windows: int
) -> Float[Tensor, "windows channels time"]:
    """The windows of some signals, each of three axes."""
    names = [f"{part}/Inertial Signals/{signal}_{axis}_{part}.txt" for signal in signals for axis in "xyz"]
    return torch.stack([_table(within, name, windows) for name in names], dim=1)


def _table(within: Path, name: str, windows: int) -> Float[Tensor, "windows time"]:
    """The numbers of a file, of which each line is a window."""
    content = PUBLISHED.content(within, name)
    lines = content.count(b"\n")
    if lines != windows or not content.endswith(b"\n"):
        raise PUBLISHED.wrong(
            within, name, f"has {lines} whole lines for {windows} windows: it is cut off or changed"
        )
    try:
        values = np.array(content.split(), dtype=np.float64).astype(np.float32)
    except ValueError as error:
        raise PUBLISHED.wrong(within, name, f"holds something else than numbers ({error})") from error
    if values.size != windows * WINDOW or not np.isfinite(values).all():
        raise PUBLISHED.wrong(within, name, f"is not {windows} lines of {WINDOW} finite numbers")
    return torch.from_numpy(values.reshape(windows, WINDOW))
