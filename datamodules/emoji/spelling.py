"""Names of emoji as peers read them: folded to 26 letters, ten digits and spaces."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 "
VOCABULARY = 1 + len(ALPHABET)
"""Number of character ids: 0 fills a name up, 1 to 26 are a to z, then digits, and a space."""
LENGTH = 40
"""Length of a name in characters, padding included; of a longer one the end is cut off."""
_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th"}
)  # that are no letter of the alphabet with a mark


def fold(name: str) -> str:
    """A name in small letters without marks, with a space in place of all that is no letter and no digit."""
    parts = unicodedata.normalize("NFKD", name.lower().translate(_LETTERS))
    letters = "".join(c for c in parts if not unicodedata.combining(c))
    return " ".join("".join(c if c in ALPHABET else " " for c in letters).split())[:LENGTH].strip()


def encode(names: Sequence[str]) -> Int[Tensor, "samples length"]:
    """Character ids of folded names, filled up with 0."""
    return torch.tensor(
        [[1 + ALPHABET.index(c) for c in name] + [0] * (LENGTH - len(name)) for name in names]
    )


def decode(ids: Int[Tensor, "samples length"]) -> list[str]:
    """The folded names that have these character ids."""
    return ["".join(ALPHABET[i - 1] for i in row if i) for row in ids.tolist()]
