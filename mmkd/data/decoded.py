"""Views of media files, decoded once into a file that is mapped into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from mmkd.data.catalogue import View
from mmkd.files import replacing
from mmkd.types import Views

MEMORY = 2**30
"""Bytes of decoded views up to which they are held in memory."""
MANY = 64
"""How many files are decoded side by side rather than one by one."""


class Decoded(View):
    """What files show, each decoded when it is first read, and again when it has changed since.

    Values lie one behind the other in one file, and a second file says which of them are there, by size and
    time of what they were decoded from. A row is marked after it is written, so a run that is stopped at any
    moment leaves rows that are whole or not there.

    Args:
        names: of the samples' files; empty where a sample has none.
        root: folder from which on these are paths.
        stamps: size and time of each file.
        decode: reads a file into the whole numbers that are kept, in the given shape.
        shape: of a sample.
        dtype: of what is kept: uint8 or int16.
        cache: folder of such files.
        settings: what else decides how a file is decoded, for the file's name.
    """

    def __init__(
        self,
        names: Sequence[str],
        root: Path,
        stamps: Int[np.ndarray, "samples 2"],
        decode: Callable[[Path], Tensor],
        shape: Sequence[int],
        dtype: type[np.uint8 | np.int16],
        cache: Path,
        settings: object,
    ) -> None:
        self._names, self._root, self._decode = names, root, decode
        self._most = float(np.iinfo(dtype).max)
        whole = blake2b(repr((str(root.resolve()), tuple(shape), dtype, settings)).encode(), digest_size=10)
        for name in names:
            whole.update(f"{name}\n".encode())
        place = cache / whole.hexdigest()
        self._values = _mapped(place / "values", (len(names), *shape), np.dtype(dtype))
        self._seen = _mapped(place / "seen", (len(names), 2), np.dtype(np.int64))
        self._stamps = np.asarray(stamps, dtype=np.int64)
        self._there = np.array([bool(name) for name in names])
        self._held: Tensor | None = None

    def take(self, rows: Int[Tensor, " batch"]) -> Views:
        """The views of those samples, between 0 (or -1) and 1."""
        if self._held is not None:
            return self._held.index_select(0, rows)
        at = rows.numpy()
        self._fill(at)
        return torch.from_numpy(self._values[at]).float() / self._most

    def whole(self) -> Views | None:
        """The views of all samples, decoded now, if they are small enough to be held in memory."""
        if self._held is None and self._values.size * 4 <= MEMORY:
            everything = np.arange(len(self._names))
            self._fill(everything, shown=True)
            self._held = torch.from_numpy(np.array(self._values)).float() / self._most
        return self._held

    def _fill(self, rows: np.ndarray, *, shown: bool = False) -> None:
        """Decode those of the rows that are not there, with a bar where that takes a while."""
        stale = (self._seen[rows] != self._stamps[rows]).any(1) & self._there[rows]
        lacking = np.unique(rows[stale]).tolist()
        if len(lacking) < MANY:
            for row in lacking:
                self._read(row)
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(self._read, lacking)
            try:
                list(
                    tqdm(done, "decoding", len(lacking), unit="file", leave=False, disable=not shown, delay=1)
                )
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _read(self, row: int) -> None:
        self._values[row] = self._decode(self._root / self._names[row]).numpy()
        self._seen[row] = self._stamps[row]


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
    """A file as an array; a new one is all zeros, and takes no room on a disk until it is written to."""
    size = int(np.prod(shape)) * dtype.itemsize
    if size == 0:
        return np.zeros(shape, dtype)
    if not path.is_file() or path.stat().st_size != size:
        with replacing(path) as part, part.open("wb") as file:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)
