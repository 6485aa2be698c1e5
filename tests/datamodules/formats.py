"""Small files in the formats of published sets."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def idx(array: NDArray[np.uint8]) -> bytes:
    """An IDX file's content: two zeros, 8 for unsigned bytes, the number of dimensions, sizes, bytes."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.tobytes()


def write_fashion(folder: Path, *, train: int = 60, test: int = 20) -> dict[str, NDArray[np.uint8]]:
    """Fashion-MNIST's four files with a few random pictures; returns their arrays by file."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3"] = random.integers(0, 256, (size, 28, 28), np.uint8)
        arrays[f"{part}-labels-idx1"] = (np.arange(size) % 10).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return arrays
