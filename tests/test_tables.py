"""No cell is a formula, and every text is read as it was given."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from mmkd.ledger import Ledger
from mmkd.tables import cell, read_rows, text_of_cell, write_rows

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\rx", "-", "-1.5.2", "=", "+a/0"]
PLAIN = ["", "peer", "cameras/0", "a=b", "1-2", "x'y", '"', " ", "-1.5", "+3", "-1e-05", "-inf"]


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN, "'", "'=1", "''", "'a"])
def test_a_text_comes_back(text: str) -> None:
    assert text_of_cell(cell(text)) == text
    assert cell(text)[:1] not in ("=", "@", "\t", "\r")


def test_formulas_are_marked_and_numbers_are_not() -> None:
    assert [cell(text) for text in FORMULAS] == [f"'{text}" for text in FORMULAS]
    assert [cell(text) for text in PLAIN] == PLAIN
    assert (cell(-1.5), cell(-2), cell(None)) == (-1.5, -2, None)


def test_a_table_of_nasty_names() -> None:
    names = [*FORMULAS, *PLAIN, "a,b", 'a"b', "a\nb"]
    file = io.StringIO(newline="")
    write_rows(file, [["name", "=head"], *([name, -0.5] for name in names)])
    assert all(row[0][:1] not in ("=", "@", "\t", "\r") for row in csv.reader(io.StringIO(file.getvalue())))
    assert list(read_rows(io.StringIO(file.getvalue(), newline=""))) == [
        {"name": name, "=head": "-0.5"} for name in names
    ]


def test_a_row_that_is_cut_off_is_none() -> None:
    with pytest.raises(ValueError, match="row 3 has 1 cells, not 2"):
        list(read_rows(["a,b\n", "1,2\n", "3"]))


def test_the_ledger_says_whose_bytes_they_were(tmp_path: Path) -> None:
    ledger = Ledger(["=peer/0"])
    ledger.send(0, "=peer/0", "@hub", "weights", 3)
    ledger.write(tmp_path / "ledger.csv")
    with (tmp_path / "ledger.csv").open(newline="") as file:
        (row,) = read_rows(file)
    assert (row["sender"], row["receiver"], row["bytes"]) == ("=peer/0", "@hub", "3")
    assert ",'=peer/0,'@hub," in (tmp_path / "ledger.csv").read_text()
