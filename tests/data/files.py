"""Files of the kinds that people have, made small."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from mmkd.functional.random import key


def image(
    path: Path, label: int, number: int, *, size: tuple[int, int] = (12, 10), mode: str = "RGB"
) -> Path:
    """A picture whose class is where it is bright."""
    draw = np.random.default_rng(key("image", label, number))
    pixels = draw.integers(0, 60, (size[1], size[0], 3))
    pixels[:, label * size[0] // 3 : (label + 1) * size[0] // 3] += 180
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path)
    return path


def sound(
    path: Path, label: int, number: int, *, rate: int = 8000, seconds: float = 0.3, channels: int = 1
) -> Path:
    """A tone whose class is its pitch."""
    draw = np.random.default_rng(key("sound", label, number))
    time = np.arange(round(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * 220 * 2**label * time) + 0.02 * draw.standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat(wave[:, None], channels, 1), rate)
    return path


WORDS = (("red", "rouge", "rosso"), ("green", "vert", "verde"), ("blue", "bleu", "blu"))
"""Words of each class."""


def word(label: int, number: int) -> str:
    return f"{WORDS[label][number % 3]} {number}"


def table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A table in CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def three(folder: Path, count: int = 36) -> list[dict[str, Any]]:
    """Rows of samples that are seen, heard and read; of every fourth a view is missing."""
    rows = []
    for i in range(count):
        row = {"id": f"s{i}", "label": ["cat", "dog", "owl"][i % 3]}
        if i % 4 != 1:
            row["image"] = image(folder / f"i/{i}.png", i % 3, i).relative_to(folder).as_posix()
        if i % 4 != 2:
            row["audio"] = sound(folder / f"a/{i}.wav", i % 3, i).relative_to(folder).as_posix()
        if i % 4 != 3:
            row["text"] = word(i % 3, i)
        rows.append(row)
    return rows
