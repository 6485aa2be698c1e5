"""Tables as CSV files, in which no spreadsheet finds a formula and every text is read as it was given."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of cells that spreadsheets run as formulas."""
MARK = "'"
"""Beginning of a cell that a spreadsheet shows as text; it is no part of the text."""


def cell(value: Any) -> Any:
    """A value as it is written: a text that a spreadsheet would run has a ``MARK`` before it.

    So has a text that begins with a mark, so that ``text_of_cell`` knows the two apart. Numbers stay.
    """
    if not isinstance(value, str) or not value.startswith((*FORMULAS, MARK)):
        return value
    try:
        float(value)
    except ValueError:
        return MARK + value
    return value


def text_of_cell(written: str) -> str:
    """The text that ``cell`` was given."""
    return written.removeprefix(MARK)


def write_rows(file: TextIO, rows: Iterable[Iterable[Any]]) -> None:
    """Add rows to a file that is opened with ``newline=""``."""
    csv.writer(file).writerows([cell(value) for value in row] for row in rows)


def read_rows(file: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of a table by the names in its first row."""
    rows = csv.reader(file)
    head = [text_of_cell(name) for name in next(rows, [])]
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(head):
            raise ValueError(f"row {number} has {len(row)} cells, not {len(head)}")
        yield dict(zip(head, map(text_of_cell, row), strict=True))
