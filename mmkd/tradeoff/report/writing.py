"""Formatting of numbers and lists in a report."""

from __future__ import annotations

from mmkd.tradeoff.pareto import Spread


def si(value: float, unit: str) -> str:
    """Three significant digits with a decimal prefix: ``si(160000, "B")`` is 160 kB."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 999.5 or prefix == "P":
            break
        value /= 1000
    digits = 0 if not prefix or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefix}{unit}"


def percent(share: float) -> str:
    """A share in per cent, without the sign: 0.8125 is 81.2."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign and a true minus."""
    return f"{100 * difference:+.1f}".replace("-", "\u2212")


def plus_minus(found: Spread) -> str:
    """The mean of shares in per cent and, of several, their standard deviation."""
    return percent(found.mean) + (f" \u00b1 {percent(found.std)}" if found.std is not None else "")


def difference(gap: Spread | None) -> str:
    """The mean of paired differences in percentage points and, of several, their interval."""
    if gap is None:
        return "no seed shared"
    low, high = gap.interval()
    return points(gap.mean) + (f" [{points(low)}, {points(high)}]" if gap.count > 1 else "")


def listed(words: list[str]) -> str:
    """Words listed as in a sentence: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
