"""Speech Commands, version 2 (Warden 2018, arXiv 1804.03209): single words, each said by many people.

The recordings are Google's, under CC BY 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from datamodules.fetching import Archive
from datamodules.published import Published, numbered
from mmkd.data.catalogue import PARTS, Catalogue
from mmkd.data.catalogued import CatalogueData
from mmkd.data.media import Sounds
from mmkd.types import ConfigError

WORDS = (
    "backward",
    "bed",
    "bird",
    "cat",
    "dog",
    "down",
    "eight",
    "five",
    "follow",
    "forward",
    "four",
    "go",
    "happy",
    "house",
    "learn",
    "left",
    "marvin",
    "nine",
    "no",
    "off",
    "on",
    "one",
    "right",
    "seven",
    "sheila",
    "six",
    "stop",
    "three",
    "tree",
    "two",
    "up",
    "visual",
    "wow",
    "yes",
    "zero",
)
"""The words, which are the classes; ``_background_noise_`` is none."""
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
"""Files that say which recordings are for validation and for tests."""
PUBLISHED = Published(
    "Speech Commands",
    "https://arxiv.org/abs/1804.03209",
    "what speech_commands_v0.02.tar.gz holds (a folder for each word, and two lists)",
    Archive("https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz"),
)
"""Where the set comes from; the paper names the archive."""
_NAME = re.compile(r"([0-9a-f]+)_nohash_[0-9]+\.wav")  # who says it, and how often they have said it before


class SpeechCommands(CatalogueData):
    """Speech Commands: 105,829 recordings of 35 words by 2,618 people, of a second or less, at 16 kHz.

    A sample is "audio" ``[rate * seconds]`` float in -1 to 1, and the word that is said. Validation and test
    samples are the published ones; no person is in two parts: public are all recordings of some people, and
    each peer of a modality has people of its own, unless a partition is given.

    Args:
        folder: with a folder for each word, in which recordings are called ``<speaker>_nohash_<number>.wav``,
            and with ``testing_list.txt`` and ``validation_list.txt``: what is in
            https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz.
        words: that are read; all, if left out. YAML takes yes, no, on and off for words if they are quoted.
        audio: how sounds are read; a second at 16 kHz, if left out.
        cache: folder in which decoded files are kept.
        public: share of the people for training whose recordings are public.
        download: whether that archive is fetched (2.4 GB) beside the folder, if there is none.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: there are no such words; or, when the data are first read, a file is missing or wrong.
    """

    modalities = ("audio",)

    def __init__(
        self,
        *,
        folder: str,
        words: Sequence[str] = WORDS,
        audio: Sounds | None = None,
        cache: str = ".cache/media",
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        self.words = list(words)
        if len(self.words) < 2 or len({*self.words}) < len(self.words) or not {*self.words} <= {*WORDS}:
            raise ConfigError(f"words are two or more of {', '.join(WORDS)}, each once, not {self.words}")
        self.num_classes = len(self.words)
        super().__init__(**kwargs)
        self.folder, self.cache, self.download = Path(folder), Path(cache), download
        self.audio = audio or Sounds()

    def catalogue(self) -> Catalogue:
        """All recordings, word by word.

        Raises:
            ConfigError: a file is missing or wrong, or cannot be fetched.
        """
        PUBLISHED.get(self.folder, LISTS["test"], download=self.download)
        names, speakers, y = list[str](), list[str](), list[int]()
        for number, word in enumerate(self.words):
            for name, speaker in self._recordings(word):
                names.append(name)
                speakers.append(speaker)
                y.append(number)
        group = numbered(speakers)
        part = self._parts(names)
        stamps = PUBLISHED.stamps(self.folder, names)
        return Catalogue(
            classes=self.words,
            y=torch.tensor(y),
            views={"audio": self.audio.view(names, self.folder, stamps, self.cache)},
            shown={"audio": torch.ones(len(y), dtype=torch.bool)},
            part=part,
            group=group,
        )

    def _recordings(self, word: str) -> list[tuple[str, str]]:
        """The name of each recording of a word, from the folder on, and who says it."""
        found = []
        for path in sorted((self.folder / word).glob("*")):
            if (match := _NAME.fullmatch(path.name)) is None:
                raise PUBLISHED.wrong(
                    self.folder, f"{word}/{path.name}", "is not called <speaker>_nohash_<number>.wav"
                )
            found.append((f"{word}/{path.name}", match[1]))
        if not found:
            raise PUBLISHED.missing(self.folder, f"{word}/*.wav")
        return found

    def _parts(self, names: Sequence[str]) -> Int[Tensor, " samples"]:
        """The published part of each recording."""
        part = torch.full((len(names),), PARTS.index("train"))
        row = {name: i for i, name in enumerate(names)}
        for name, listed in LISTS.items():
            for line in PUBLISHED.lines(self.folder, listed):
                if line.split("/")[0] in WORDS and line.split("/")[0] not in self.words:
                    continue
                if line not in row:
                    raise PUBLISHED.wrong(self.folder, listed, f"names '{line[:80]}', which is not there")
                if part[row[line]] not in (PARTS.index("train"), PARTS.index(name)):
                    raise PUBLISHED.wrong(self.folder, listed, f"names '{line[:80]}', as another list does")
                part[row[line]] = PARTS.index(name)
        return part
