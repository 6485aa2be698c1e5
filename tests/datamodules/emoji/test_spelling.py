"""Names of emoji, folded to letters, digits and spaces."""

from __future__ import annotations

import pytest

from datamodules.emoji.spelling import LENGTH, VOCABULARY, decode, encode, fold


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("Katze", "katze"),
        ("Buchstabe „i“ in blauem Quadrat", "buchstabe i in blauem quadrat"),
        ("Grüße, Łódź & Ærø", "grusse lodz aero"),
        ("touche 10", "touche 10"),
        ("  a\t b ", "a b"),
        ("ﬁn", "fin"),
        ("кошка", ""),
        ("", ""),
        ("#", ""),
        ("x" * 100, "x" * LENGTH),
        ("x" * (LENGTH - 1) + " y", "x" * (LENGTH - 1)),
    ],
)
def test_folded(name: str, folded: str) -> None:
    assert fold(name) == folded


def test_what_is_encoded_is_decoded() -> None:
    names = ["a", "zebra 0 9", "x" * LENGTH]
    ids = encode(names)
    assert decode(ids) == names
    assert ids.shape == (3, LENGTH)
    assert ids.max() < VOCABULARY
    assert ids.count_nonzero(1).tolist() == [len(name) for name in names]
