"""IDX files: what is written is read, and whatever is wrong is one line that names the file."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.idx import read_idx
from mmkd.types import ConfigError
from tests.datamodules.formats import idx

ARRAY = np.random.default_rng(0).integers(0, 256, (3, 5, 7), np.uint8)
WHOLE = idx(ARRAY)
COMPRESSED = gzip.compress(WHOLE)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for array in (ARRAY, ARRAY[0, 0], ARRAY[:0]):
        (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
        np.testing.assert_array_equal(read_idx(tmp_path / "a.gz", dimensions=array.ndim), array)


def test_more_than_a_chunk_is_read(tmp_path: Path) -> None:
    array = np.arange(3 * 2**19, dtype=np.uint8)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array), 1))
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz", dimensions=1), array)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(COMPRESSED[:-20], "is cut off or changed", id="cut off"),
        pytest.param(COMPRESSED[:12], "is cut off or changed", id="cut off in its header"),
        pytest.param(
            COMPRESSED[:-8] + bytes([COMPRESSED[-8] ^ 1]) + COMPRESSED[-7:],
            "is cut off or changed",
            id="another checksum",
        ),
        pytest.param(
            COMPRESSED[:60] + bytes([COMPRESSED[60] ^ 255]) + COMPRESSED[61:],
            "is cut off or changed",
            id="a byte changed",
        ),
        pytest.param(WHOLE, "is cut off or changed", id="not compressed"),
        pytest.param(b"", "does not begin as an IDX file", id="empty"),
        pytest.param(gzip.compress(b""), "does not begin as an IDX file", id="nothing compressed"),
        pytest.param(gzip.compress(WHOLE[:9]), "does not begin as an IDX file", id="half a header"),
        pytest.param(gzip.compress(b"\1" + WHOLE[1:]), "does not begin as an IDX file", id="other magic"),
        pytest.param(
            gzip.compress(WHOLE[:2] + b"\x0d" + WHOLE[3:]), "does not begin as an IDX file", id="floats"
        ),
        pytest.param(gzip.compress(idx(ARRAY[0])), "an IDX file of 3 dimensions", id="fewer dimensions"),
        pytest.param(gzip.compress(WHOLE[:-1]), "promises 3 x 5 x 7 bytes and holds 104", id="a byte less"),
        pytest.param(gzip.compress(WHOLE + b"\0"), "3 x 5 x 7 bytes and holds more", id="a byte more"),
        pytest.param(
            gzip.compress(WHOLE[:4] + b"\xff" * 12 + WHOLE[16:]), "bytes and holds 105", id="all there is"
        ),
    ],
)
def test_wrong_files_are_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as error:
        read_idx(path, dimensions=3)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["a folder", "nothing"])
def test_what_is_no_file_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "images.gz")
    with pytest.raises(ConfigError, match=r"images\.gz cannot be read"):
        read_idx(tmp_path / "images.gz", dimensions=3)
