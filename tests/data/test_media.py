"""Sound files that end before they say, and those whose writer did not know how long they would be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmkd.data.media import MediaError, Sounds
from tests.data.files import sound


@pytest.mark.parametrize("promised", [0, 2**32 - 1])
def test_a_length_that_nobody_knew_is_no_length(promised: int, tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", 0, 0)
    whole, content = Sounds().decode(path), path.read_bytes()
    path.write_bytes(content[:4] + promised.to_bytes(4, "little") + content[8:])
    assert Sounds().decode(path).equal(whole)


def test_a_sound_without_its_end_is_refused(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", 0, 0)
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(MediaError, match=f"cut off: it has {len(content) - 2} of {len(content)} bytes"):
        Sounds().decode(path)
    path.write_bytes(content + b"more")  # such as tags that a writer has forgotten to count
    Sounds().decode(path)
