"""Small files in the formats of published sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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


GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
)
"""As the list of emoji has them."""
WORDS = {"de": "Katze Hund Löwe Bär Ziege Maus", "en": "cat dog lion bear goat mouse"}
"""Names in a file of CLDR's for each language."""
CLEAR = 0.5
"""How much of the white behind a picture of ``write_emoji`` is seen through it."""


def colour(vendor: str, emoji: int) -> tuple[int, int, int]:
    """Of the picture that a vendor has of an emoji."""
    return (4 * emoji, 200 - 4 * emoji, 250 if vendor == "google" else 50)


def write_emoji(folder: Path, *, each: int = 6) -> list[str]:
    """Packages of npm with so many emoji of each group, and a flag; returns their characters."""
    codes = [f"1F{0x400 + i:X}" for i in range(each * len(GROUPS))]
    listed = [
        {"unified": code, "category": GROUPS[i % len(GROUPS)], "image": f"{code.lower()}.png"}
        for i, code in enumerate(codes)
    ]
    listed.append({"unified": "1F1E9-1F1EA", "category": "Flags", "image": "1f1e9-1f1ea.png"})
    for entry in listed:
        entry.update({"has_img_google": True, "has_img_twitter": True})
    for vendor in ("google", "twitter"):
        package = folder / f"emoji-datasource-{vendor}"
        pictures = package / "img" / vendor / "64"
        pictures.mkdir(parents=True)
        (package / "emoji.json").write_text(json.dumps(listed))
        for i, entry in enumerate(listed[:-1]):
            seen = (*colour(vendor, i), round(255 * CLEAR))
            Image.new("RGBA", (64, 64), seen).save(pictures / str(entry["image"]))
    texts = [chr(int(code, 16)) for code in codes]
    for language, words in WORDS.items():
        called = [f"{word} {i}" for i in range(len(GROUPS)) for word in words.split()[:each]]
        names = {text: {"default": ["x"], "tts": [name]} for text, name in zip(texts, called, strict=True)}
        path = folder / "cldr-annotations-full" / "annotations" / language / "annotations.json"
        path.parent.mkdir(parents=True)
        path.write_text(
            json.dumps({"annotations": {"identity": {"language": language}, "annotations": names}})
        )
    return texts
