"""Emoji as packages of npm bring them: a list of characters and groups, pictures, and names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from mmkd.types import ConfigError

INSTALL = "npm install emoji-datasource-google emoji-datasource-twitter cldr-annotations-full"
"""What installs all that is read here into the folder ``node_modules``."""
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
"""Unicode's groups of emoji, by their numbers; flags and parts of emoji are left out."""
VENDORS = ("google", "twitter")
"""Whose pictures there are, and may be used by everybody."""
PUBLISHED = 64
"""Height and width of a picture file in pixels."""

_CODES = re.compile(r"[0-9A-F]{2,6}(-[0-9A-F]{2,6})*")
_FILE = re.compile(r"[0-9a-f-]+\.png")  # and no way out of the folder


class Emoji(NamedTuple):
    """An emoji as the list has it."""

    text: str  # its characters
    group: int  # position among GROUPS
    image: str  # name of its picture files
    vendors: frozenset[str]  # who has a picture of it


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: the file is missing, or it cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"emoji are not there ({path} is missing): {INSTALL}, or set folder to where node_modules is"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is cut off or changed ({error}): {INSTALL}") from error


def read_emoji(folder: Path, vendor: str) -> list[Emoji]:
    """The emoji of the eight groups, in the order of the list.

    Args:
        folder: in which npm has put the packages.
        vendor: whose package brings the list, which is the same in all of one version.

    Raises:
        ConfigError: the list is missing or wrong.
    """
    path = folder / f"emoji-datasource-{vendor}" / "emoji.json"
    found = []
    listed = read_json(path)
    for i, entry in enumerate(listed if isinstance(listed, list) else [None]):
        try:
            codes, group, image = (entry[key] for key in ("unified", "category", "image"))
            if not _CODES.fullmatch(codes) or not _FILE.fullmatch(image) or not isinstance(group, str):
                raise ValueError(entry)
            text = "".join(chr(int(code, 16)) for code in codes.split("-"))
            vendors = frozenset(v for v in VENDORS if entry[f"has_img_{v}"] is True)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"{path}: entry {i} is no emoji as it was published: {INSTALL}") from error
        if group in GROUPS and vendors:
            found.append(Emoji(text, GROUPS.index(group), image, vendors))
    if not found:
        raise ConfigError(f"{path} has no emoji of {', '.join(GROUPS)}: {INSTALL}")
    return found


def read_pictures(paths: Sequence[Path], size: int) -> UInt8[Tensor, "pictures 3 size size"]:
    """Pictures on white, resized.

    Args:
        paths: of PNG files.
        size: height and width to which they are resized.

    Raises:
        ConfigError: a file is missing or wrong.
    """
    found = np.empty((len(paths), size, size, 3), np.uint8)
    white = Image.new("RGBA", (PUBLISHED, PUBLISHED), "white")
    for row, path in zip(found, paths, strict=True):
        try:
            with Image.open(path, formats=["PNG"]) as picture:
                if picture.size != (PUBLISHED, PUBLISHED):
                    width, height = picture.size
                    raise ConfigError(f"{path} has {width} x {height} pixels, not {PUBLISHED} x {PUBLISHED}")
                flat = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
        except FileNotFoundError as error:
            raise ConfigError(f"emoji are not there ({path} is missing): {INSTALL}") from error
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for broken chunks
            raise ConfigError(f"{path} is cut off or changed ({error}): {INSTALL}") from error
        row[:] = np.asarray(flat.resize((size, size), Image.Resampling.BOX))
    return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous()


def read_names(folder: Path, language: str) -> Mapping[str, str]:
    """What emoji are called in a language, by their characters without variation selectors.

    Raises:
        ConfigError: CLDR's file of the language is missing or wrong.
    """
    path = folder / "cldr-annotations-full" / "annotations" / language / "annotations.json"
    content = read_json(path)
    try:
        entries = content["annotations"]["annotations"]
        names = {plain(text): entry["tts"][0] for text, entry in entries.items() if entry.get("tts")}
        if not all(isinstance(name, str) for name in names.values()):
            raise TypeError
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ConfigError(f"{path} is not a file of CLDR's annotations: {INSTALL}") from error
    return names


def plain(text: str) -> str:
    """The characters of an emoji without the one that asks for a coloured picture."""
    return text.replace("\N{VARIATION SELECTOR-16}", "")
