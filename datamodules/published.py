"""Files of a published set: where they come from, what is told where they are missing, and what they were.

Few publishers give checksums of single files. So the sum of every file that is read whole is written down
when it is first read, in ``checksums.sha256`` beside the files, as ``sha256sum --check`` reads it; one that
is another one later is named. Pictures and sounds are known by size and time, and decoded again when these
change.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from datamodules.fetching import Archive, obtain
from mmkd.files import replacing
from mmkd.types import ConfigError

SUMS = "checksums.sha256"
"""Name of the file in which checksums are written down."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class Published(NamedTuple):
    """A set, and how it comes to be on a disk."""

    name: str  # of the set
    page: str  # of the publisher, where people get it
    inside: str  # what is to lie in the folder of the set
    archive: Archive | None = None  # that can be fetched, if the publisher has one

    def get(self, folder: Path, first: str, *, download: bool) -> None:
        """See that a set is there, and fetch it, if that is wanted.

        Args:
            folder: of the set.
            first: a file of it.
            download: whether it may be fetched.

        Raises:
            ConfigError: it is not there and may not or cannot be fetched.
        """
        if download and self.archive is None:
            raise ConfigError(
                f"{self.name} has no file that could be fetched: get it from {self.page}, and put"
                f" {self.inside} into {folder}"
            )
        if download and self.archive is not None and not (folder / first).exists():
            obtain(self.archive, folder)
            if not (folder / first).exists():
                raise ConfigError(
                    f"{folder} holds something, and no {first} of {self.name}: name an empty folder, and"
                    " it is fetched into that"
                )
        if not (folder / first).exists():
            raise self.missing(folder, first)

    def missing(self, folder: Path, name: str) -> ConfigError:
        """The error of a file that is not there."""
        fetched = "" if self.archive is None else ", or set download: true"
        return ConfigError(
            f"{self.name} is not there ({folder / name} is missing): get it from {self.page}, and put"
            f" {self.inside} into {folder}{fetched}"
        )

    def wrong(self, folder: Path, name: str, what: str) -> ConfigError:
        """The error of a file that is there and holds something else."""
        return ConfigError(f"{folder / name} {what}: get it again from {self.page}")

    def content(self, folder: Path, name: str) -> bytes:
        """What a file holds.

        Raises:
            ConfigError: it is missing, cannot be read, or was another one before.
        """
        try:
            content = (folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.missing(folder, name) from error
        except OSError as error:
            raise ConfigError(f"{folder / name} cannot be read: {error.strerror or error}") from error
        _compare(folder, name, hashlib.sha256(content).hexdigest())
        return content

    def text(self, folder: Path, name: str) -> str:
        """The text that a file holds.

        Raises:
            ConfigError: as for ``content``, or it is not written in UTF-8.
        """
        try:
            return self.content(folder, name).decode()
        except UnicodeDecodeError as error:
            raise self.wrong(folder, name, "is not written in UTF-8") from error

    def lines(self, folder: Path, name: str) -> list[str]:
        """The lines of a file without what surrounds them, empty ones left out.

        Raises:
            ConfigError: as for ``text``, or there are none.
        """
        found = [line.strip() for line in self.text(folder, name).splitlines() if line.strip()]
        if not found:
            raise self.wrong(folder, name, "is empty")
        return found

    def rows(self, folder: Path, name: str, columns: int) -> list[list[str]]:
        """The rows of a file in CSV, all of which have so many cells.

        Raises:
            ConfigError: as for ``text``, or a row has more cells or less, or there is none.
        """
        text = self.text(folder, name)
        try:
            found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            raise self.wrong(folder, name, f"is cut off or no CSV ({error})") from error
        for i, row in enumerate(found):
            if len(row) != columns:
                raise self.wrong(folder, name, f"has {len(row)} cells in row {i + 1}, not {columns}")
        if not found:
            raise self.wrong(folder, name, "is empty")
        return found

    def stamps(self, folder: Path, names: Sequence[str]) -> Int[np.ndarray, "samples 2"]:
        """Size in bytes and time in nanoseconds of each file, by which decoded ones are known again.

        Args:
            folder: of the set.
            names: of files, from the folder on.

        Raises:
            ConfigError: one is missing or empty.
        """
        found = np.empty((len(names), 2), dtype=np.int64)
        for row, name in zip(found, names, strict=True):
            try:
                seen = os.stat(folder / name)
            except (OSError, ValueError) as error:
                raise self.missing(folder, name) from error
            if seen.st_size == 0:
                raise self.wrong(folder, name, "is empty")
            row[:] = seen.st_size, seen.st_mtime_ns
        return found


def numbered(names: Sequence[str]) -> Int[Tensor, " samples"]:
    """A number for each name, equal for equal names: groups of a catalogue."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([number[name] for name in names])


def _compare(folder: Path, name: str, found: str) -> None:
    """Refuse a file that is another one than when it was first read; write its sum down, if it is new."""
    path = folder / SUMS
    sums = _sums(path)
    if sums.setdefault(name, found) != found:
        raise ConfigError(
            f"{folder / name} is another file than before (its sum in {path} differs): bring that back,"
            f" or delete {path}, if the change was meant"
        )
    if len(sums) > len(_sums(path)):
        try:
            with replacing(path) as part:
                part.write_text("".join(f"{total}  {of}\n" for of, total in sorted(sums.items())))
        except OSError:
            pass  # where the folder is somebody else's nothing is written down


def _sums(path: Path) -> dict[str, str]:
    """The sums that are written down, by name."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: delete it, and it is written anew") from error
    matches = [_LINE.fullmatch(line) for line in lines]
    if not all(matches):
        raise ConfigError(f"{path} is no list of checksums: delete it, and it is written anew")
    return {match[2]: match[1] for match in matches if match}
