"""CREMA-D (Cao et al. 2014): sentences that actors say in six moods.

The set is under the Open Database License 1.0, its recordings under the Database Contents License 1.0.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from datamodules.published import Published, numbered
from mmkd.data.catalogue import DRAWN, Catalogue
from mmkd.data.catalogued import CatalogueData
from mmkd.data.media import Sounds

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
"""Codes in the names of recordings, and the classes, in this order."""
INSIDE = "AudioWAV"
"""The folder of the recordings."""
PUBLISHED = Published("CREMA-D", "https://github.com/CheyneyComputerScience/CREMA-D", f"the folder {INSIDE}")
"""Where the set comes from: Git LFS keeps it, so that there is no file to be fetched."""
# Actor, sentence, emotion and level; one recording is published with the level X in place of XX.
_NAME = re.compile(rf"([0-9]{{4}})_[A-Z]{{3}}_({'|'.join(EMOTIONS)})_(?:LO|MD|HI|XX?)\.wav")


class CremaD(CatalogueData):
    """CREMA-D: 7,442 recordings of twelve sentences that 91 actors say in six moods, at 16 kHz.

    A sample is "audio" ``[rate * seconds]`` float in -1 to 1, and the emotion that the actor was asked for.
    No actor is in two parts, all of which are drawn, and each peer of a modality has actors of its own,
    unless a partition is given.

    Args:
        folder: with ``AudioWAV``, whose recordings are called ``<actor>_<sentence>_<emotion>_<level>.wav``,
            such as ``1001_DFA_ANG_XX.wav``, from https://github.com/CheyneyComputerScience/CREMA-D (clone it
            with Git LFS).
        audio: how sounds are read; their middle 2.5 seconds at 16 kHz, if left out.
        cache: folder in which decoded files are kept.
        public: share of the actors whose recordings are public; ``val`` and ``test`` are shares of the rest.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: a file is missing or wrong, when the data are first read.
    """

    num_classes = len(EMOTIONS)
    modalities = ("audio",)

    def __init__(
        self, *, folder: str, audio: Sounds | None = None, cache: str = ".cache/media", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.folder, self.cache = Path(folder), Path(cache)
        self.audio = audio or Sounds(seconds=2.5)

    def catalogue(self) -> Catalogue:
        """All recordings, in the order of their names.

        Raises:
            ConfigError: there are none, or one is called otherwise.
        """
        names, actors, y = list[str](), list[str](), list[int]()
        for path in sorted((self.folder / INSIDE).glob("*")):
            if (match := _NAME.fullmatch(path.name)) is None:
                raise PUBLISHED.wrong(
                    self.folder,
                    f"{INSIDE}/{path.name}",
                    f"is not called <actor>_<sentence>_<emotion>_<level>.wav (with {', '.join(EMOTIONS)})",
                )
            names.append(f"{INSIDE}/{path.name}")
            actors.append(match[1])
            y.append(list(EMOTIONS).index(match[2]))
        if not names:
            raise PUBLISHED.missing(self.folder, f"{INSIDE}/*.wav")
        group = numbered(actors)
        part = torch.full((len(names),), DRAWN)
        stamps = PUBLISHED.stamps(self.folder, names)
        return Catalogue(
            classes=list(EMOTIONS.values()),
            y=torch.tensor(y),
            views={"audio": self.audio.view(names, self.folder, stamps, self.cache)},
            shown={"audio": torch.ones(len(names), dtype=torch.bool)},
            part=part,
            group=group,
        )
