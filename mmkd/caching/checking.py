"""Reads all of a file of LMDB, as a program of its own, which ends badly if it cannot; needs no mmkd."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def check_length(environment: Any, folder: Path) -> None:
    """Refuse a file that was cut: LMDB maps it into memory, and a process that reads beyond its end dies.

    Raises:
        OSError: it is shorter than it says.
    """
    pages = environment.info()["last_pgno"] + 1
    size = (folder / "data.mdb").stat().st_size
    if size < pages * environment.stat()["psize"]:
        raise OSError(f"data.mdb has {size} bytes and speaks of {pages} pages")


def main(folder: Path) -> None:
    """Read every entry.

    Raises:
        Exception: the file is damaged.
    """
    import lmdb

    with lmdb.open(str(folder), readonly=True, lock=False, create=False) as environment:
        check_length(environment, folder)
        with environment.begin() as transaction:
            keys = [key for key, value in transaction.cursor() if transaction.get(key) == value]
            if len(keys) != environment.stat()["entries"] or keys != sorted(set(keys)):
                raise OSError("entries are not where they belong")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
