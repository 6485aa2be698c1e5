"""Entries of a cache on a disk, in LMDB: processes of one host share them, and a crash loses no other's."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmkd.caching import checking
from mmkd.caching.store import Store, Tensors
from mmkd.errors import ConfigError

LOG = logging.getLogger(__name__)
"""Where it is said that a disk fails, once."""
ROOM = 2**36
"""Bytes of address space: the file itself is as large as what is in it."""
MARK = 7
"""Bytes of a mark, which is a checksum: it is no negative number of eight."""
LOCKS = Lock()
"""One thread of a process opens a file at a time, as LMDB asks."""
Made = TypeVar("Made")
"""What is done in a transaction gives."""


class Disk(Store):
    """Keeps entries in a file of LMDB, which is opened for each transaction and closed behind it.

    An entry is read only if its checksum is the mark that it was given, whoever has written it meanwhile. A
    file that is cut or damaged when a run begins is thrown away. A disk that is full keeps nothing, which is
    said once.

    Args:
        folder: is made if it is not there.
        run: names it: others do not write over its entries.

    Raises:
        ConfigError: lmdb is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path, run: str) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise ConfigError(f"a cache on a disk needs lmdb: pip install 'mmkd[cache]' ({error})") from error
        self._lmdb: Any = lmdb
        self._folder, self._run = folder, _digest(run.encode(), 16)
        self._failed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot hold a cache: {error.strerror}") from error
        if (folder / "data.mdb").exists() and not _whole(folder):
            LOG.warning("%s is damaged, and is begun anew: its entries are misses", folder)
            for name in ("data.mdb", "lock.mdb"):
                (folder / name).unlink(missing_ok=True)

    def put(
        self,
        speakers: Sequence[str],
        ids: Int[Tensor, " samples"],
        tensors: Tensors,
        said: Bool[Tensor, "speakers samples"],
    ) -> Int[Tensor, "speakers samples"] | None:
        """Keep them in one transaction, all or none."""
        marks, numbers = torch.zeros(said.shape, dtype=torch.long), ids.tolist()
        bodies = {name: _rows(tensor) for name, tensor in sorted(tensors.items())}

        def write(transaction: Any) -> Tensor:
            for row, speaker in enumerate(speakers):
                for place in said[row].nonzero().squeeze(1).tolist():
                    key = self._key(speaker, numbers[place])
                    body = b"".join(rows[row, place].tobytes() for rows in bodies.values())
                    transaction.put(key, body)
                    marks[row, place] = _mark(key, body)
            return marks

        return self._do(write, write=True)

    def get(
        self,
        speakers: Sequence[str],
        ids: Int[Tensor, " samples"],
        like: Tensors,
        marks: Int[Tensor, "speakers samples"],
    ) -> tuple[dict[str, Tensor], Bool[Tensor, "speakers samples"]]:
        """Those whose marks are asked for."""
        import numpy as np

        numbers, wanted = ids.tolist(), marks.tolist()
        found = torch.zeros(marks.shape, dtype=torch.bool)
        rows = {name: _rows(torch.zeros_like(tensor, device="cpu")) for name, tensor in sorted(like.items())}
        length = sum(own.shape[2] for own in rows.values())

        def read(transaction: Any) -> None:
            for row, speaker in enumerate(speakers):
                for place, mark in enumerate(wanted[row]):
                    if mark < 0:
                        continue
                    key = self._key(speaker, numbers[place])
                    body = transaction.get(key)
                    if body is None or len(body) != length or _mark(key, body) != mark:
                        continue
                    at = 0
                    for own in rows.values():
                        own[row, place] = np.frombuffer(body, np.uint8, own.shape[2], at)
                        at += own.shape[2]
                    found[row, place] = True

        self._do(read, write=False)
        return {
            name: torch.from_numpy(rows[name]).view(tensor.dtype).view(tensor.shape).to(tensor.device)
            for name, tensor in like.items()
        }, found

    def drop(self, speakers: Sequence[str], gone: Bool[Tensor, "speakers ids"]) -> None:
        """Delete them."""

        def delete(transaction: Any) -> None:
            for row, number in gone.nonzero().tolist():
                transaction.delete(self._key(speakers[row], number))

        self._do(delete, write=True)

    def _key(self, speaker: str, number: int) -> bytes:
        return self._run + _digest(speaker.encode(), 16) + number.to_bytes(8, "big")

    def _do(self, work: Callable[[Any], Made], *, write: bool) -> Made | None:
        """What some work gives in a transaction; None, if the disk fails."""
        try:
            with LOCKS, self._opened() as environment, environment.begin(write=write) as transaction:
                return work(transaction)
        except (self._lmdb.Error, OSError) as error:
            if not self._failed:
                LOG.warning("the cache in %s keeps nothing: %s", self._folder, error)
            self._failed = True
            return None

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file; beyond its end there is nothing to read.

        Raises:
            OSError: it was cut.
        """
        environment = self._lmdb.open(str(self._folder), map_size=ROOM, readahead=False)
        try:
            checking.check_length(environment, self._folder)
            yield environment
        finally:
            environment.close()


def _rows(tensor: Tensor) -> Any:
    """The bytes of each row's samples, ``[rows, samples, bytes]``."""
    flat = tensor.detach().cpu().contiguous()
    return flat.reshape(*flat.shape[:2], flat[0, 0].numel() if flat.numel() else 0).view(torch.uint8).numpy()


def _digest(message: bytes, size: int) -> bytes:
    return blake2b(message, digest_size=size).digest()


def _mark(key: bytes, body: bytes) -> int:
    return int.from_bytes(_digest(key + body, MARK), "big")


def _whole(folder: Path) -> bool:
    """Whether all of a file can be read; a process of its own tries, since LMDB may die of a damaged one."""
    command = [sys.executable, checking.__file__, str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
