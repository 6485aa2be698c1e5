"""Colours are written down in one place, and letters can be read on what they stand on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmkd import palette

ROOT = Path(__file__).parents[1]


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("letters", [palette.INK, palette.MUTED])
@pytest.mark.parametrize("page", [{}, palette.DARK], ids=["light", "dark"])
def test_letters_can_be_read(letters: str, page: dict[str, str]) -> None:
    """WCAG 2.1 asks for a contrast of 4.5 at least."""
    low, high = sorted(luminance(page.get(colour, colour)) for colour in (letters, palette.PAPER))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_methods_have_colours_of_their_own() -> None:
    plain = {palette.BLACK, palette.INK, palette.MUTED, palette.LINE, palette.PAPER}
    assert len({*palette.DISTINCT, *plain}) == len(palette.DISTINCT) + len(plain)


def test_colours_are_written_down_in_one_file() -> None:
    written = {
        path.relative_to(ROOT).as_posix()
        for folder in ("mmkd", "datamodules", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"#[0-9a-fA-F]{6}\b", path.read_text())
    }
    assert written == {"mmkd/palette.py"}
