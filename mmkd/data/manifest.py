"""Data of one's own without code: a table of files and texts, or a folder with one sub-folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmkd.bounds import bounded
from mmkd.data.catalogue import DRAWN, PARTS, Catalogue, View
from mmkd.data.catalogued import CatalogueData
from mmkd.data.media import Images, Medium, Sounds, Texts
from mmkd.data.table import FILES, TEXT, Problem, Table, checked, opened, read_table, refuse
from mmkd.names import near
from mmkd.types import NO_LABEL, ConfigError, Modality

ENDINGS: Mapping[Modality, frozenset[str]] = {
    "image": frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}),
    "audio": frozenset({".aif", ".aiff", ".flac", ".mp3", ".ogg", ".wav"}),
}
"""Endings of the names of files of each modality."""


class _OfTable(CatalogueData):
    """Data of a table that has been checked.

    Args:
        table: its samples.
        whose: names it in errors.
        media: how each modality is read.
        classes: names of the classes; those that occur, in their order, if None.
        cache: folder of decoded files.
        **kwargs: arguments of ``CatalogueData``.
    """

    def __init__(
        self,
        table: Table,
        whose: str,
        media: tuple[Images, Sounds, Texts],
        classes: Sequence[str] | None,
        cache: str,
        **kwargs: Any,
    ) -> None:
        self.table, self.whose, self._cache = table, whose, Path(cache)
        self._files: dict[Modality, Medium] = dict(zip(FILES, media[:2], strict=True))
        self._texts = media[2]
        labels = [label for label, split in zip(table.label, table.split, strict=True) if split != "public"]
        self.classes = sorted({*labels}, key=_number_or_name) if classes is None else list(classes)
        """Names of the classes, by their numbers."""
        refuse(
            [
                Problem(i + 2, f"label '{label[:40]}' is no class{near(label, self.classes)}")
                for i, (label, split) in enumerate(zip(table.label, table.split, strict=True))
                if split != "public" and label not in set(self.classes)
            ],
            whose,
            len(table.ids),
        )
        self.num_classes, self.modalities = len(self.classes), tuple(table.cells)
        super().__init__(**kwargs)

    def catalogue(self) -> Catalogue:
        """The samples of the table, in its order."""
        table, number = self.table, {name: i for i, name in enumerate(self.classes)}
        part = {name: i for i, name in enumerate(PARTS)} | {"": DRAWN}
        groups = None
        if table.group is not None:
            of = {name: i for i, name in enumerate(dict.fromkeys(table.group))}
            groups = torch.tensor([of[name] for name in table.group])
        return Catalogue(
            self.classes,
            torch.tensor([number.get(label, NO_LABEL) for label in table.label]),
            {m: self._view(m) for m in table.cells},
            {m: torch.tensor([bool(cell) for cell in cells]) for m, cells in table.cells.items()},
            torch.tensor([part[split] for split in table.split]),
            table.owner,
            groups,
        )

    def _view(self, modality: Modality) -> View:
        table = self.table
        if modality == TEXT:
            return self._texts.view(table.cells[TEXT], partial(self.rows, "public"))
        files = table.cells[modality], table.root, table.stamps[modality]
        return self._files[modality].view(*files, self._cache)

    def check(self) -> None:
        """Open all files.

        Raises:
            ConfigError: some cannot be read; all of them are told.
        """
        problems = opened(self.table, {m: medium.decode for m, medium in self._files.items()})
        refuse(problems, self.whose, len(self.table.ids))


@bounded
class Manifest(_OfTable):
    """Samples of a table in CSV or Parquet, whose columns name files, texts, labels, and what else is known.

    A row is a sample. Columns are ``label``, at least one of ``image``, ``audio`` (paths of files, from the
    table's folder on) and ``text``, and if wanted ``id``, ``split`` (train, val, test or public), ``owner``
    (the peer whose it is) and ``group`` (a person or a device, never in two parts). An empty cell of a view
    says that it is missing. The table is checked as a whole at once; files are opened when they are first
    read, and kept decoded. Labels of public samples are not read.

    Args:
        table: its path.
        image: how images are read.
        audio: how sounds are read.
        text: how texts are read.
        classes: names of the classes, by number; those that occur, if left out.
        cache: folder in which decoded files are kept.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: the table cannot be read, or some of its rows are wrong; all of them are told.
    """

    def __init__(
        self,
        table: str,
        *,
        image: Images | None = None,
        audio: Sounds | None = None,
        text: Texts | None = None,
        classes: list[str] | None = None,
        cache: str = ".cache/media",
        **kwargs: Any,
    ) -> None:
        media = image or Images(), audio or Sounds(), text or Texts()
        super().__init__(read_table(Path(table)), table, media, classes, cache, **kwargs)


@bounded
class Folder(_OfTable):
    """Samples of a folder with one sub-folder a class, of images or of sounds.

    There may be folders called train, val, test or public above those of the classes; the last may hold files
    alone. Parts that are not there are drawn.

    Args:
        folder: its path.
        image: how images are read.
        audio: how sounds are read.
        cache: folder in which decoded files are kept.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: there are no files, or they are of two modalities.
    """

    def __init__(
        self,
        folder: str,
        *,
        image: Images | None = None,
        audio: Sounds | None = None,
        cache: str = ".cache/media",
        **kwargs: Any,
    ) -> None:
        media = image or Images(), audio or Sounds(), Texts()
        super().__init__(_table_of(Path(folder)), folder, media, None, cache, **kwargs)


def _table_of(folder: Path) -> Table:
    """The table of a folder.

    Raises:
        ConfigError: there are no files, or they are of two modalities.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    above = sorted(path.name for path in folder.iterdir() if path.is_dir())
    parts = above if above and {*above} <= {*PARTS} else [""]
    rows = [(part, *found) for part in parts for found in _files(folder / part, part)]
    kinds = {modality for _, modality, *_ in rows}
    if not rows:
        endings = " ".join(sorted(ENDINGS["image"] | ENDINGS["audio"]))
        raise ConfigError(f"{folder} has no folder of a class with files in it ({endings})")
    if len(kinds) > 1:
        raise ConfigError(f"{folder} has images and sounds; a table says which belong together")
    paths = [str(Path(part) / name) for part, _, _, name in rows]
    columns = {
        "id": paths,
        "split": [part for part, *_ in rows],
        "label": [label for _, _, label, _ in rows],
        kinds.pop(): paths,
    }
    return checked(columns, folder, str(folder))


def _files(folder: Path, part: str) -> Iterator[tuple[Modality, str, str]]:
    """Modality, class and name of each file below a folder, in the order of their names."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        label, *_ = Path(place).relative_to(folder).parts or ("",)
        for name in sorted(names):
            for modality, endings in ENDINGS.items():
                if Path(name).suffix.lower() in endings and (label or part == "public"):
                    yield modality, label, str((Path(place) / name).relative_to(folder))


def _number_or_name(label: str) -> tuple[int, int, str]:
    """Orders labels: whole numbers by their value, then names."""
    digits = label.isascii() and label.isdigit()
    return (0, int(label), label) if digits else (1, 0, label)
