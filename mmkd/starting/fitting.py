"""What fits data of one's own: how they are read, which peers there may be, how large their students are."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmkd.data.manifest import Folder, Manifest
from mmkd.data.table import TEXT
from mmkd.types import ConfigError, Modality

LOOKED_AT = 50
"""How many files of a modality are looked at."""
FLEETS = {"image": "cameras", "audio": "microphones", "text": "phones"}
"""Names of fleets whose peers the data do not name."""
EACH = 24
"""Private samples that a peer has at least on average, where their number is free."""
MOST = 4
"""Peers of a modality, where their number is free."""


class Fit(NamedTuple):
    """What fits some data."""

    data: Mapping[str, Any]  # of a configuration
    fleets: Mapping[str, tuple[int, Modality]]  # peers of each
    students: Mapping[Modality, Mapping[str, Any]]


def fitting(path: Path, *, deep: bool = False) -> Fit:
    """Look at a table or a folder.

    Args:
        path: of it.
        deep: whether every file is opened.

    Raises:
        ConfigError: something is wrong with it, or there are too few samples.
    """
    kind: type[Manifest | Folder] = Folder if path.is_dir() else Manifest
    first = kind(str(path))
    if deep:
        first.check()
    media: dict[str, dict[str, Any]] = {}
    students: dict[Modality, dict[str, Any]] = {}
    for modality in first.modalities:
        media[modality], students[modality] = _reading(first, modality)
    fleets = _fleets(first)
    batch = max(2, min(32, _least(first, fleets) // 4))
    given: dict[str, Any] = {
        "folder" if kind is Folder else "table": str(path),
        **media,
        "batch_size": batch,
        "public_batch_size": 32,
    }
    catalogue = first.samples
    if catalogue.owner is None and catalogue.group is None:
        least = {"alpha": 0.5, "min_size": batch}
        given["partition"] = {"class_path": "mmkd.data.partition.Dirichlet", "init_args": least}
    data = {"class_path": f"mmkd.data.{kind.__name__}", "init_args": given}
    return Fit(data, fleets, students)


def _reading(data: Manifest | Folder, modality: Modality) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a modality is read, and what its student must know of that."""
    if modality == TEXT:
        texts = [cell for cell in data.table.cells[TEXT] if cell]
        longest = max(map(len, texts))
        length = next((n for n in (16, 32, 64, 128) if n >= longest), 256)
        return {"length": length, "tokenizer": "ascii"}, {"vocabulary": 128}
    paths = [data.table.root / cell for cell in data.table.cells[modality] if cell]
    chosen = paths[:: max(1, len(paths) // LOOKED_AT)][:LOOKED_AT]
    return (_of_images if modality == "image" else _of_sounds)(chosen)


def _of_images(paths: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    from PIL import Image

    sides, grey = [], []
    for path in paths:
        try:
            with Image.open(path) as file:
                sides.append(min(file.size))
                grey.append(file.mode in ("1", "L", "LA"))
        except Exception:  # a broken file is told of when it is read
            continue
    size = 16 if statistics.median(sides or [32]) <= 16 else 32
    channels = 1 if grey and all(grey) else 3
    return {"size": size, "channels": channels}, {"in_chans": channels}


def _of_sounds(paths: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        import soundfile
    except ImportError:
        raise ConfigError("sound files need soundfile: install mmkd[data]") from None

    rates, seconds = [], []
    for path in paths:
        try:
            found = soundfile.info(path)
            rates.append(found.samplerate)
            seconds.append(found.duration)
        except Exception:  # a broken file is told of when it is read
            continue
    rate = min(16_000, Counter(rates or [16_000]).most_common(1)[0][0])
    heard = round(min(4.0, max(0.25, statistics.median(seconds or [1.0]))), 2)
    frame = 2 ** round(rate * 0.032).bit_length() // 2  # 16 to 32 ms
    return {"rate": rate, "seconds": heard}, {"sample_rate": rate, "n_fft": frame, "hop": frame // 2}


def _fleets(data: Manifest | Folder) -> dict[str, tuple[int, Modality]]:
    """Fleets of the peers that own samples, or of as many as there are samples for."""
    samples = data.samples
    if samples.owner is None:
        found = {}
        for modality in data.modalities:
            private = int(samples.shown[modality][data.rows("train")].sum())
            groups = MOST
            if samples.group is not None:
                rows = data.rows("train")
                groups = len(samples.group[rows[samples.shown[modality][rows]]].unique())
            found[FLEETS[modality]] = min(groups, max(2, min(MOST, private // EACH))), modality
        return found
    shows: dict[str, Counter[Modality]] = {}
    numbers: dict[str, set[int]] = {}
    for row in data.rows("train").tolist():
        fleet, _, number = samples.owner[row].rpartition("/")
        if not number.isascii() or not number.isdigit():
            raise ConfigError(
                f"'{samples.owner[row]}' owns samples: call owners FLEET/NUMBER, such as cameras/0"
            )
        numbers.setdefault(fleet, set()).add(int(number))
        shows.setdefault(fleet, Counter()).update(m for m in data.modalities if samples.shown[m][row])
    for fleet, there in numbers.items():
        if lacking := sorted({*range(max(there) + 1)} - there):
            raise ConfigError(f"'{fleet}/{lacking[0]}' owns nothing: number the owners of a fleet from 0 on")
    return {fleet: (len(there), shows[fleet].most_common(1)[0][0]) for fleet, there in numbers.items()}


def _least(data: Manifest | Folder, fleets: Mapping[str, tuple[int, Modality]]) -> int:
    """Private samples of the peer that has the fewest, or of an average one, where they are dealt."""
    samples = data.samples
    if samples.owner is not None:
        return min(Counter(name for name in samples.owner if name).values())
    rows = data.rows("train")
    return min(int(samples.shown[m][rows].sum()) // count for count, m in fleets.values())
