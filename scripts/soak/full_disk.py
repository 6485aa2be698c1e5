"""Let the disk run full at every file that a run writes, and compare what it leaves when there is room again.

    .venv/bin/python scripts/soak/full_disk.py

A run of ``runs.py`` writes into a small file system in memory (a tmpfs, which needs the right to mount one),
one page larger each time, so that each write of each file is the first that does not fit. Nothing that was
whole may be lost: files are whole or not there, nothing is left beside them, and with room again the run
goes on from its checkpoint and ends like an undisturbed one. The status is 1 if one does not;
where nothing can be mounted, nothing is tried.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs import METHODS, PATHS, forked, left_by, run

from mmkd.cohort.checkpoints import whole

ROOM = "64m"
"""Size of a file system that never runs full."""
READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": lambda path: [len(row) for row in csv.reader(path.open())],
    ".ckpt": lambda path: whole(path),
    ".run": lambda path: json.loads(path.read_text()),
}
"""How to read a file of each ending; a checkpoint that is broken has a reason."""


def mount(folder: Path, size: str, *more: str) -> None:
    """Mount a tmpfs of a size, or change the size of one that is mounted."""
    options = ",".join([f"size={size}", *more])
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def broken(folder: Path) -> list[str]:
    """Files that are not whole, or that nobody should find."""
    found = []
    for path in folder.rglob("*"):
        read = READERS.get(path.suffix or path.name)
        if path.is_dir() or (path.stat().st_size == 0 and path.name == ".lock"):
            continue
        if path.suffix == ".part":
            found.append(path.name)
        elif read is not None:
            try:
                lengths = read(path)
            except ValueError as error:
                found.append(f"{path.name}: {error}")
            else:
                if isinstance(lengths, str) or (path.suffix == ".csv" and len({*lengths}) != 1):
                    found.append(f"{path.name}: {lengths}")
    return found


def attempt(case: tuple[str, str], folder: Path, size: str) -> int:
    """Run in a file system of a size; returns the exit status."""
    mount(folder, size, *(["remount"] if folder.is_mount() else []))
    return os.waitstatus_to_exitcode(os.waitpid(forked(run, *case, folder / "run"), 0)[1])


def soak(case: tuple[str, str], folder: Path, found: Counter[str], step: int) -> None:
    """Try every size of the disk for one method and path."""
    try:
        if status := attempt(case, folder, ROOM):
            raise SystemExit(f"{case} ends with status {status} undisturbed")
        undisturbed = left_by(folder / "run")
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    kib, status = 4, 1
    while status:
        status = attempt(case, folder, f"{kib}k")
        found["runs"] += 1
        found["full"] += status != 0
        if wrong := broken(folder / "run"):
            found["broken"] += 1
            print(f"{case}, {kib} KiB: {'; '.join(wrong)}", file=sys.stderr)
        if status and attempt(case, folder, ROOM):
            found["lost"] += 1
            print(f"{case}, {kib} KiB: the run does not go on", file=sys.stderr)
        else:
            left = left_by(folder / "run")
            different = [part for part in undisturbed if undisturbed[part] != left[part]]
            found["equal" if not different else "different"] += 1
            if different:
                print(f"{case}, {kib} KiB: other {', '.join(different)}", file=sys.stderr)
        subprocess.run(["umount", str(folder)], check=True)
        kib += step


def main() -> int:
    """Soak, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["alone", "SCAFFOLD", "shared logits"]
    )
    parser.add_argument("--step", type=int, default=4, help="KiB by which the disk grows")
    options = parser.parse_args()
    found = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        try:
            mount(Path(name), ROOM)
        except (OSError, subprocess.CalledProcessError):
            print("no file system can be mounted here, so nothing was tried", file=sys.stderr)
            return 0
        subprocess.run(["umount", name], check=True)
        for method in options.methods:
            soak((method, list(PATHS)[1]), Path(name), found, options.step)
    for what in dict.fromkeys([*found, "broken", "lost", "different"]):
        print(f"{found[what]:6} {what}")
    return int(any(found[what] for what in ("broken", "lost", "different")))


if __name__ == "__main__":
    sys.exit(main())
