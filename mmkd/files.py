"""Replacing a file at once: a reader finds the old content or the new, and never a part."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends, the file written there takes the place of ``path``.

    Whoever reads ``path`` finds all of the old content or all of the new, even after a power cut. If the
    block raises, the old file stays and nothing is left beside it. Several processes may replace the same
    file at once: each writes a file of its own, and the last to end its block wins. The folder is made if it
    is missing.

        with replacing(folder / "curve.csv") as part, part.open("w", newline="") as file:
            write_rows(file, rows)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{token_hex(8)}.part")  # a rename is atomic within a file system only
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # a disk may keep the new name before the content
        os.replace(part, path)
    except OSError as error:
        if (
            error.filename is None and error.errno is not None
        ):  # a write to a full disk does not say of which file
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def unfinished(folder: Path, name: str | None = None) -> list[Path]:
    """Files of a folder in which ``replacing`` was killed.

    Args:
        folder: where to look; not below it.
        name: of the file that was to be replaced; any, if left out.
    """
    pattern = re.compile(rf"{'.+' if name is None else re.escape(name)}\.[0-9a-f]{{16}}\.part")
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name)] if folder.is_dir() else []
