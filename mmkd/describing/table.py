"""Who owns what, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmkd.describing.ownership import Ownership

BARS = " ▁▂▃▄▅▆▇█"
"""How large a share of the largest is, in eighths."""
MOST = 40
"""The most peers that have a line of their own."""
WIDE = 60
"""The most classes that have a bar of their own."""


def table(owned: Ownership) -> str:
    """A line for each peer with a bar for each class, then what the peers of each modality have in common."""
    names = list(owned.modalities)
    shown = names if len(names) <= MOST else names[: MOST // 2] + names[-MOST // 2 :]
    rows = [("Peer", "Reads", "Samples", "Validation", "Test", "Classes")]
    for name in shown:
        val, test = owned.evaluated[name]
        rows.append(
            (
                name,
                owned.modalities[name],
                f"{owned.samples[name]:,}",
                f"{val:,}",
                f"{test:,}",
                bars(owned.counts[name].tolist()),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column in (2, 3, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if len(shown) < len(names):
        lines.insert(1 + MOST // 2, f"... {len(names) - len(shown):,} more ...")
    return "\n".join([*lines, "", *_in_common(owned)])


def _in_common(owned: Ownership) -> Iterator[str]:
    names = ", ".join(owned.classes[:12]) + (
        f" and {len(owned.classes) - 12} more" if len(owned.classes) > 12 else ""
    )
    yield f"{len(owned.classes)} classes: {names}"
    for modality in dict.fromkeys(owned.modalities.values()):
        found = owned.skew(modality)
        low, middle, high = found.sizes
        yield (
            f"{modality}: {low:,} to {high:,} samples a peer (median {middle:,}, Gini {found.gini:.2f});"
            f" {found.classes:.1f} classes a peer in effect, {found.distance:.0%} from the shares of all"
            f" (0% if alike); {found.imbalance:.1f} of the most frequent class for one of the rarest"
        )
    if owned.public:
        shows = ", ".join(f"{m} {count:,}" for m, count in owned.shown.items())
        yield f"{owned.public:,} public samples, of which are shown: {shows}"
    else:
        yield "no public samples"


def bars(counts: Sequence[float]) -> str:
    """A bar for each class, as high as its share of the most frequent one; neighbours share one if many."""
    each = -(-len(counts) // WIDE)
    together = [sum(counts[i : i + each]) for i in range(0, len(counts), each)]
    most = max(together) or 1.0
    return "".join(BARS[0 if not n else max(1, round(8 * n / most))] for n in together)
