"""Draw the table of compressions in Markdown from what compression.py has written.

    python scripts/bench/compressed.py docs/compression.csv

Differences are in points of accuracy, means over students with 95 % intervals (Student's t) where there are
three or more; a student is compared with itself before, and taught by neighbours with itself healed alone.
Bytes are those of students that neighbours have taught.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import t

LEAST = 3
"""Students from which on an interval is told."""
Cell = dict[tuple[str, str], dict[str, str]]
"""Rows of one compression and way of healing, by run and peer."""


def interval(differences: list[float]) -> str:
    """A mean in points, and its interval."""
    if not differences:
        return ""
    text = f"{100 * fmean(differences):+.1f}"
    if len(differences) >= LEAST:
        half = t.ppf(0.975, len(differences) - 1) * stdev(differences) / len(differences) ** 0.5
        text += f" ± {100 * half:.1f}"
    return text


def against(one: Cell, other: Cell) -> str:
    """By how much students of one cell are better than the same students of another."""
    return interval([float(one[k]["score"]) - float(other[k]["score"]) for k in one if k in other])


def main() -> None:
    """Print the table."""
    cells = defaultdict[tuple[str, str], Cell](dict)
    with Path(sys.argv[1]).open() as file:
        for row in csv.DictReader(file):
            cells[row["compression"], row["healed"]][row["run"], row["peer"]] = row
    whole = cells["none", "not"]
    head = [
        "compression",
        "students",
        "not healed",
        "healed alone",
        "self",
        "neighbours",
        "neighbours - alone",
    ]
    head += ["bytes", "gzip"]
    print("| " + " | ".join(head) + " |")
    print("| --- " * len(head) + "|")
    for name in dict.fromkeys(name for name, _ in cells if name != "none"):
        parts = [cells.get((name, how), {}) for how in ("not", "alone", "self", "neighbours")]
        shown = parts[-1]
        ratios = [
            f"{fmean(float(shown[k][what]) / float(whole[k][what]) for k in shown):.2f}"
            for what in ("bytes", "gzip")
        ]
        print(
            "| "
            + " | ".join(
                [
                    name,
                    str(len(shown)),
                    *(against(p, whole) for p in parts),
                    against(shown, parts[1]),
                    *ratios,
                ]
            )
            + " |"
        )


if __name__ == "__main__":
    main()
