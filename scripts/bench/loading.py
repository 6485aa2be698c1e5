"""Measure for how much of its time a trainer waits for samples: images, sounds and texts from files.

    python scripts/bench/loading.py --samples 2000 --workers 0 2

Files are made, decoded into the cache by a first run, and read from it by runs whose shares are printed:
samples held in memory, as data below a GiB are, and read from the mapped file, as those above are; each as
they are and augmented. A share is the time in which the trainer waited for its next block, of all time.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import torch
from local_steps import fit
from PIL import Image

import mmkd.data.decoded
from mmkd.augmentation import Affine, Masks, Typos, Warp
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import Manifest
from mmkd.data.loading import TrainLoader
from mmkd.data.media import Images, Sounds, Texts
from mmkd.federated import FedAvg
from mmkd.schedule import Schedule
from mmkd.students import AudioStudent, TextStudent, VisionStudent
from mmkd.topology import Star

PEERS = 6
MEDIA: dict[str, Any] = {"image": Images(32), "audio": Sounds(16_000, 1.0), "text": Texts(64)}
CHANGES: dict[str, Any] = {"image": [Affine()], "audio": [Warp(), Masks()], "text": [Typos()]}
STUDENTS: dict[str, Any] = {
    "image": lambda n: VisionStudent(n, in_chans=3),
    "audio": lambda n: AudioStudent(n, sample_rate=16_000, n_fft=512, hop=256, mels=64),
    "text": TextStudent,
}


def files(folder: Path, modality: str, count: int) -> Path:
    """A table of random samples of ten classes, and their files."""
    draw = np.random.default_rng(0)
    rows = []
    for i in range(count):
        name = f"{i}.png" if modality == "image" else f"{i}.wav"
        if modality == "image":
            Image.fromarray(draw.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(folder / name)
        elif modality == "audio":
            soundfile.write(folder / name, 0.1 * draw.standard_normal(22_050), 22_050)
        else:
            name = " ".join("".join(map(chr, draw.integers(97, 123, 5))) for _ in range(10))
        rows.append({"label": i % 10, modality: name})
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["label", modality])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "table.csv"


class Waiting:
    """Clocks the time that a trainer waits for blocks, and all of its time from the first block on."""

    def __init__(self) -> None:
        self.waited = self.whole = 0.0
        self._blocks = TrainLoader.__iter__

    def __enter__(self) -> Waiting:
        def clocked(loader: TrainLoader) -> Iterator[Any]:
            blocks = self._blocks(loader)
            first = next(blocks)  # which workers need a while to start for
            yield first
            start = time.perf_counter()
            try:
                while True:
                    before = time.perf_counter()
                    block = next(blocks, None)
                    self.waited += time.perf_counter() - before
                    if block is None:
                        return
                    yield block
            finally:
                self.whole += time.perf_counter() - start

        TrainLoader.__iter__ = clocked  # type: ignore[method-assign]  # for as long as it is measured
        return self

    def __exit__(self, *error: object) -> None:
        TrainLoader.__iter__ = self._blocks  # type: ignore[method-assign]  # as it was


def share(table: Path, modality: str, held: bool, augmented: bool, workers: int) -> str:
    """The share of a run, in words."""
    mmkd.data.decoded.MEMORY = 2**30 if held else 0
    data = Manifest(
        str(table),
        cache=str(table.parent / "cache"),
        augment={modality: CHANGES[modality]} if augmented else None,
        num_workers=workers,
        peers={f"own/{i}": modality for i in range(PEERS)},
        **{modality: MEDIA[modality]},
    )
    cohort = Cohort({"own": Fleet(STUDENTS[modality], PEERS)}, data.num_classes, vectorize="always")
    schedule = Schedule(local_steps=20, block=5, rounds_per_epoch=6)
    start = time.perf_counter()
    with Waiting() as clock:
        fit(cohort, DecentralizedCallback(None, FedAvg(), Star(), schedule), data)
    where, how = "in memory" if held else "mapped", "augmented" if augmented else "as is"
    return (
        f"{modality:6} {where:9} {how:9} workers {workers}:"
        f" waits {clock.waited / clock.whole:6.1%} of {clock.whole:6.2f} s"
        f" (whole run {time.perf_counter() - start:5.1f} s, load {os.getloadavg()[0]:.1f})"
    )


def main() -> None:
    """Measure every modality in every way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for modality in MEDIA:
        with TemporaryDirectory() as folder:
            table = files(Path(folder), modality, options.samples)
            places = (True,) if modality == "text" else (True, False)  # tokens are always in memory
            for held, augmented, workers in product(places, (False, True), options.workers):
                print(share(table, modality, held, augmented, workers), flush=True)


if __name__ == "__main__":
    main()
