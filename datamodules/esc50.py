"""ESC-50 (Piczak 2015): sounds of animals, nature, people, homes and towns, of five seconds each.

The set is under CC BY-NC 3.0, and its part ESC-10 under CC BY 3.0; LICENSE in it names whose each sound is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch

from datamodules.fetching import Archive
from datamodules.published import Published, numbered
from mmkd.bounds import Bound, bounded
from mmkd.data.catalogue import PARTS, Catalogue
from mmkd.data.catalogued import CatalogueData
from mmkd.data.media import Sounds

META = "meta/esc50.csv"
"""The table of all sounds."""
COLUMNS = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
"""Its columns."""
FOLDS = 5
"""How many folds there are; sounds cut from one recording are in one fold."""
CLASSES, CLASSES_OF_TEN = 50, 10
"""How many classes there are, and how many in ESC-10."""
PUBLISHED = Published(
    "ESC-50",
    "https://github.com/karolpiczak/ESC-50",
    "its folders audio and meta",
    Archive("https://github.com/karolpiczak/ESC-50/archive/master.zip", top="ESC-50-master"),
)
"""Where the set comes from."""
_FILE = re.compile(r"[\w-]+\.wav")


@bounded
class Esc50(CatalogueData):
    """ESC-50: 2,000 sounds of 50 classes, 40 each, in five folds.

    A sample is "audio" ``[rate * seconds]`` float in -1 to 1. One fold is for tests; validation and public
    samples are drawn from the others. Sounds that were cut from one recording are in one part, and of one
    peer of a modality, unless a partition is given.

    Args:
        folder: with ``audio/*.wav`` and ``meta/esc50.csv``, from https://github.com/karolpiczak/ESC-50.
        test_fold: the fold whose sounds are for tests.
        esc10: whether only the ten classes of ESC-10 are read, 400 sounds.
        audio: how sounds are read; five seconds at 16 kHz, if left out.
        cache: folder in which decoded files are kept.
        public: share of the recordings in the other folds whose sounds are public.
        download: whether the set is fetched from there (0.6 GB), if there is no such folder.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: there is no such fold; or, when the data are first read, a file is missing or wrong.
    """

    modalities = ("audio",)

    def __init__(
        self,
        *,
        folder: str,
        test_fold: Annotated[int, Bound(1, FOLDS)] = FOLDS,
        esc10: bool = False,
        audio: Sounds | None = None,
        cache: str = ".cache/media",
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        self.num_classes = CLASSES_OF_TEN if esc10 else CLASSES
        super().__init__(**kwargs)
        self.folder, self.cache, self.download = Path(folder), Path(cache), download
        self.test_fold, self.esc10 = test_fold, esc10
        self.audio = audio or Sounds(seconds=5.0)

    def catalogue(self) -> Catalogue:
        """All sounds, in the order of the table.

        Raises:
            ConfigError: a file is missing or wrong, or cannot be fetched.
        """
        PUBLISHED.get(self.folder, META, download=self.download)
        sounds = [sound for sound in self._listed() if sound.ten or not self.esc10]
        called: dict[int, str] = {}
        for sound in sounds:
            if called.setdefault(sound.target, sound.category) != sound.category:
                both = f"'{called[sound.target]}' and '{sound.category}'"
                raise PUBLISHED.wrong(self.folder, META, f"calls class {sound.target} {both}")
        if len(called) != self.num_classes:
            raise PUBLISHED.wrong(
                self.folder, META, f"has sounds of {len(called)} classes, not of {self.num_classes}"
            )
        targets = sorted(called)
        names = [f"audio/{sound.file}" for sound in sounds]
        group = numbered([sound.source for sound in sounds])
        fold = torch.tensor([sound.fold for sound in sounds])
        part = torch.where(fold == self.test_fold, PARTS.index("test"), PARTS.index("train"))
        stamps = PUBLISHED.stamps(self.folder, names)
        return Catalogue(
            classes=[called[target] for target in targets],
            y=torch.tensor([targets.index(sound.target) for sound in sounds]),
            views={"audio": self.audio.view(names, self.folder, stamps, self.cache)},
            shown={"audio": torch.ones(len(names), dtype=torch.bool)},
            part=part,
            group=group,
        )

    def _listed(self) -> list[_Sound]:
        """The sounds of the table, if it is that."""
        header, *rows = PUBLISHED.rows(self.folder, META, len(COLUMNS))
        if header != COLUMNS:
            raise PUBLISHED.wrong(
                self.folder, META, f"has the columns {', '.join(header)[:120]}, not {', '.join(COLUMNS)}"
            )
        found, fold_of = [], dict[str, int]()
        for i, (file, fold, target, category, ten, source, _) in enumerate(rows):
            row = f"has in row {i + 2}"
            if not _FILE.fullmatch(file):
                raise PUBLISHED.wrong(self.folder, META, f"{row} '{file[:80]}', which is no name of a sound")
            if not fold.isdecimal() or not 1 <= int(fold) <= FOLDS:
                raise PUBLISHED.wrong(
                    self.folder, META, f"{row} fold '{fold[:20]}', and folds are 1 to {FOLDS}"
                )
            if not target.isdecimal() or int(target) >= CLASSES:
                raise PUBLISHED.wrong(
                    self.folder, META, f"{row} target '{target[:20]}', and classes are 0 to {CLASSES - 1}"
                )
            if ten not in ("True", "False"):
                raise PUBLISHED.wrong(self.folder, META, f"{row} esc10 '{ten[:20]}', not True or False")
            if fold_of.setdefault(source, int(fold)) != int(fold):
                raise PUBLISHED.wrong(
                    self.folder, META, f"{row} recording {source[:40]}, which is in two folds"
                )
            found.append(_Sound(file, int(fold), int(target), category, ten == "True", source))
        return found


class _Sound(NamedTuple):
    """A row of the table."""

    file: str
    fold: int
    target: int  # its class
    category: str  # what that is called
    ten: bool  # whether it is in ESC-10
    source: str  # recording that it was cut from
