"""The IDX format of MNIST's files: a magic number, the sizes of an array, and its bytes, all within gzip."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mmkd.types import ConfigError

_UNSIGNED_BYTE = 0x08  # the third byte of the magic number; the fourth is the number of dimensions
_CHUNK = 1 << 20  # a wrong header may promise more than there is memory


def read_idx(path: Path, *, dimensions: int) -> UInt8[ndarray, "*sizes"]:
    """The array of unsigned bytes in a file, of which no more is read than its header promises.

    Args:
        path: of the file, which gzip has compressed.
        dimensions: that the array must have.

    Raises:
        ConfigError: the file cannot be read, is cut off or changed, or holds something else.
    """
    magic, length = bytes([0, 0, _UNSIGNED_BYTE, dimensions]), 4 + 4 * dimensions
    content = bytearray()
    try:
        with gzip.open(path) as file:
            head = file.read(length)
            if len(head) < length or head[:4] != magic:
                raise ConfigError(
                    f"{path} does not begin as an IDX file of {dimensions} dimensions of unsigned bytes;"
                    " give the file as it was published"
                )
            sizes = np.frombuffer(head[4:], ">u4").tolist()
            wanted = prod(sizes)
            while piece := file.read(min(_CHUNK, wanted - len(content))):
                content += piece
            rest = file.read(1)  # at the end gzip compares its checksum
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path} is cut off or changed ({error}); install it or copy it again") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) < wanted or rest:
        raise ConfigError(
            f"{path} promises {' x '.join(map(str, sizes))} bytes and holds"
            f" {'more' if rest else len(content)}; install it or copy it again"
        )
    return np.frombuffer(content, np.uint8).reshape(sizes)
