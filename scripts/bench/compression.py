"""Compress students of trained runs in every way, with and without distillation, and measure the files.

    python scripts/bench/compression.py RUN ... --peers cameras/0 phones/0 --csv docs/compression.csv

Every combination of a compression with a way of healing (none; the same local steps without distillation,
from the student's own whole self, from its neighbours) is exported and scored on test samples by onnxruntime.
A row is written as soon as it is known, and what is already in the table is not done again.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

from mmkd.edge.compression.measured import measured
from mmkd.edge.compression.recipe import Recipe, compressed
from mmkd.edge.trained import Trained, trained
from mmkd.tables import write_rows

COMPRESSIONS = {
    "none": [],
    "sparse": ["sparse:0.7"],
    "pruned": ["prune:0.7"],
    "low rank": ["lowrank:0.7"],
    "int8": ["int8"],
    "int8, aware": ["int8-aware"],
    "sparse, int8": ["sparse:0.7", "int8"],
    "pruned, int8": ["prune:0.7", "int8"],
    "pruned, then int8 aware": ["prune:0.7", "int8-aware"],
    "int8 aware, then pruned": ["int8-aware", "prune:0.7"],
}
HEALED = ("not", "alone", "self", "neighbours")
FIRST = ("pruned, int8", "sparse, int8")
"""Compressions that are tried with all of the healing before them, too."""
COLUMNS = (
    *("run", "peer", "compression", "healed", "score", "bytes", "gzip", "median_ms", "p95_ms"),
    *("parameters", "seconds"),
)


def row(run: Trained, peer: str, name: str, steps: list[str], healed: str, heal: int) -> list[object]:
    """Compress and measure once."""
    start = time.monotonic()
    distil = healed if healed in ("self", "neighbours") else "none"
    recipe = Recipe(steps, distil=distil, heal=0 if healed == "not" else heal)
    student = compressed(run, peer, recipe)
    found = measured(student, run.data, peer, recipe.format)
    count = sum(p.numel() for p in student.parameters())
    return [
        *(run.name, peer, name, healed, round(found.score, 6), found.bytes, found.gzip),
        *(round(found.median_ms, 4), round(found.p95_ms, 4), count, round(time.monotonic() - start, 1)),
    ]


def main() -> None:
    """Do what is not yet in the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--peers", nargs="+", required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--heal", type=int, default=300)
    parser.add_argument("--only", nargs="+", default=[*COMPRESSIONS], help="of the compressions")
    parser.add_argument(
        "--healed", nargs="+", choices=HEALED, default=HEALED, help="detectors hear no neighbours"
    )
    options = parser.parse_args()
    combinations = [
        (name, steps, healed)
        for name, steps in COMPRESSIONS.items()
        if name in options.only
        for healed in options.healed
        if healed != "not" or "int8-aware" not in steps  # which is learned, or the same as int8
    ]
    combinations += [
        (f"distilled, then {name}", ["heal", *COMPRESSIONS[name]], healed)
        for name in FIRST
        if name in options.only
        for healed in ("self", "neighbours")
        if healed in options.healed
    ]
    done = set[tuple[str, ...]]()
    if options.csv.exists():
        with options.csv.open() as file:
            done = {tuple(line[c] for c in COLUMNS[:4]) for line in csv.DictReader(file)}
    else:
        with options.csv.open("w", newline="") as file:
            write_rows(file, [list(COLUMNS)])
    for folder in options.runs:
        run = trained(folder, None, [])
        for peer in options.peers:
            for name, steps, healed in combinations:
                if (run.name, peer, name, healed) in done:
                    continue
                line = row(run, peer, name, steps, healed, options.heal)
                with options.csv.open("a", newline="") as file:
                    write_rows(file, [line])
                print(*line, f"load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
