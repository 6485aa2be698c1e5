"""Tables of samples, checked as a whole: every problem with its row, before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmkd.data.catalogue import PARTS
from mmkd.errors import ListedError
from mmkd.names import near
from mmkd.types import ConfigError, Modality

OF_SAMPLES = ("id", "split", "label", "owner", "group")
"""Columns that say something of a sample; all others are views."""
FILES = ("image", "audio")
"""Modalities whose cells are paths of files."""
TEXT = "text"
"""The modality whose cells are texts."""
SHOWN = 20
"""The most problems that are told; of further ones the number is."""


class Table(NamedTuple):
    """Samples of a table, in its order. Cells are empty where nothing is given."""

    ids: Sequence[str]
    split: Sequence[str]
    label: Sequence[str]
    owner: Sequence[str] | None
    group: Sequence[str] | None
    cells: Mapping[Modality, Sequence[str]]
    root: Path  # from which on cells of files are paths
    stamps: Mapping[Modality, np.ndarray]  # [samples, 2]: size and time of each file; zeros where none is


class Problem(NamedTuple):
    """What is wrong with a row, counted as in the file, whose first one is the header."""

    row: int
    what: str


def read_table(path: Path) -> Table:
    """A table from a CSV or Parquet file, all of whose rows are right.

    Columns are ``label``, at least one of ``image``, ``audio`` (paths, from the table's folder on) and
    ``text``, and if wanted ``id``, ``split`` (train, val, test, public), ``owner`` (a peer) and ``group``.

    Raises:
        ConfigError: the file cannot be read, or rows are wrong; all of them are told.
    """
    frame = _read(path)
    columns = {name: frame[name].to_list() for name in frame.columns}
    return checked(columns, path.parent, str(path))


def checked(columns: Mapping[str, list[str]], root: Path, whose: str) -> Table:
    """A table of columns of equal length, all of whose rows are right.

    Args:
        columns: by name.
        root: folder of the files.
        whose: names the table in errors.

    Raises:
        ConfigError: columns are missing or unknown, or rows are wrong; all of them are told.
    """
    modalities = _modalities(columns, whose)
    size = len(columns[modalities[0]])
    if size == 0:
        raise ConfigError(f"{whose} has no rows")
    empty = [""] * size
    own = {name: columns.get(name, empty) for name in OF_SAMPLES}
    ids = own["id"] if "id" in columns else [str(i) for i in range(size)]
    problems = [*_of_cells(ids, own, {m: columns[m] for m in modalities}, "id" in columns)]
    stamps: dict[Modality, np.ndarray] = {}
    for modality in modalities:
        if modality in FILES:
            stamps[modality], wrong = _found(columns[modality], root)
            problems += wrong
    refuse(problems, whose, size)
    labels = {label for label, split in zip(own["label"], own["split"], strict=True) if split != "public"}
    if len(labels) < 2:
        raise ConfigError(
            f"all samples of {whose} are labelled '{next(iter(labels), '')}': there must be two classes"
        )
    return Table(
        ids,
        own["split"],
        own["label"],
        own["owner"] if any(own["owner"]) else None,
        own["group"] if any(own["group"]) else None,
        {m: columns[m] for m in modalities},
        root,
        stamps,
    )


def refuse(problems: Sequence[Problem], whose: str, size: int) -> None:
    """Refuse a table of which rows are wrong.

    Raises:
        ListedError: there are problems; the first of them are told, in the order of rows.
    """
    if not problems:
        return
    told = [f"  row {row}: {what}" for row, what in sorted(problems)[:SHOWN]]
    more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
    raise ListedError("\n".join([f"{whose} has {count} in {size} rows:", *told, *more]))


def _read(path: Path) -> Any:
    try:
        import polars
    except ImportError:
        raise ConfigError("tables of samples need polars: install mmkd[data]") from None
    if not path.is_file():
        raise ConfigError(f"there is no table {path}")
    try:
        if path.suffix == ".parquet":
            frame = polars.read_parquet(path)
        else:
            frame = polars.read_csv(path, infer_schema=False, encoding="utf8", raise_if_empty=False)
        return frame.with_columns(polars.all().cast(polars.String).str.strip_chars().fill_null(""))
    except Exception as error:  # polars has an error for each thing that can be wrong with a file
        reason = " ".join(str(error).split())
        utf8 = "it is not written in UTF-8" if "utf-8" in reason.lower() else reason[:160]
        raise ConfigError(f"{path} cannot be read as a table: {utf8}") from error


def _modalities(columns: Mapping[str, object], whose: str) -> list[Modality]:
    known = [*OF_SAMPLES, *FILES, TEXT]
    if odd := [name for name in columns if name not in known]:
        raise ConfigError(
            f"{whose} has a column '{odd[0]}', and there may be {', '.join(known)}{near(odd[0], known)}"
        )
    found = [name for name in (*FILES, TEXT) if name in columns]
    if "label" not in columns or not found:
        raise ConfigError(f"{whose} needs a column 'label', and one of {', '.join((*FILES, TEXT))}")
    return found


def _of_cells(
    ids: Sequence[str],
    own: Mapping[str, Sequence[str]],
    views: Mapping[Modality, Sequence[str]],
    named: bool,
) -> Iterator[Problem]:
    """What is wrong with a row by itself, and ids that are there twice."""
    first: dict[str, int] = {}
    for i, id_ in enumerate(ids):
        if named and not id_:
            yield Problem(i + 2, "it has no id")
        elif (before := first.setdefault(id_, i)) != i:
            yield Problem(i + 2, f"id '{id_[:40]}' is that of row {before + 2}")
    some_owner, some_group = any(own["owner"]), any(own["group"])
    split_of = own["split"]
    for i, (split, label, owner, group) in enumerate(
        zip(split_of, own["label"], own["owner"], own["group"], strict=True)
    ):
        if split and split not in PARTS:
            yield Problem(i + 2, f"split '{split[:40]}' is none of {', '.join(PARTS)}{near(split, PARTS)}")
        elif split != "public" and not label:
            yield Problem(i + 2, "it has no label; only public samples may be without one")
        if some_owner and split == "train" and not owner:
            yield Problem(i + 2, "nobody owns it, while others have owners")
        if owner and split in ("val", "test", "public"):
            yield Problem(i + 2, f"'{owner[:40]}' owns it, and it is for {split}")
        if some_group and not group:
            yield Problem(i + 2, "it is in no group, while others are")
    for i, cells in enumerate(zip(*views.values(), strict=True)):
        if not any(cells):
            yield Problem(i + 2, "it has no view")


def _found(cells: Sequence[str], root: Path) -> tuple[np.ndarray, list[Problem]]:
    """Size and time of each file, and those that are not there."""
    stamps, problems = np.zeros((len(cells), 2), dtype=np.int64), list[Problem]()
    stat, join, base = os.stat, os.path.join, str(root)
    for i, cell in enumerate(cells):
        if not cell:
            continue
        if os.path.isabs(cell) or os.path.normpath(cell).split(os.sep)[0] == "..":
            problems.append(Problem(i + 2, f"'{cell[:80]}' is not below the folder of the table"))
            continue
        try:
            found = stat(join(base, cell))
        except (OSError, ValueError):
            problems.append(Problem(i + 2, f"there is no file '{cell[:80]}'"))
            continue
        stamps[i] = found.st_size, found.st_mtime_ns
        if found.st_size == 0:
            problems.append(Problem(i + 2, f"'{cell[:80]}' is empty"))
    return stamps, problems


def opened(table: Table, decode: Mapping[Modality, Callable[[Path], object]]) -> list[Problem]:
    """What is wrong with files, all of which are opened.

    Args:
        table: of the samples.
        decode: reads a file of each modality.
    """
    problems = []
    for modality, read in decode.items():
        for i, cell in enumerate(table.cells.get(modality, ())):
            if cell:
                try:
                    read(table.root / cell)
                except ConfigError as error:
                    problems.append(Problem(i + 2, str(error)))
    return problems
