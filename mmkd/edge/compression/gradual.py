"""The schedule of gradual compression: much at first, less and less later, and time to heal at the end."""

from __future__ import annotations

STAGES = 5
"""In how many parts a student is compressed that may learn in between."""


def stages(share: float, steps: int) -> list[tuple[float, int]]:
    """Shares that have gone after each stage, and the local steps that follow it.

    The shares are those of Zhu & Gupta (2017, eq. 1): ``s (1 - (1 - t / n)^3)`` at stage t of n. The last
    stage is followed by half of the steps. Without steps there is one stage.
    """
    if steps == 0:
        return [(share, 0)]
    between = steps // 2 // (STAGES - 1)
    shares = [share * (1 - (1 - t / STAGES) ** 3) for t in range(1, STAGES + 1)]
    return list(zip(shares, [between] * (STAGES - 1) + [steps - between * (STAGES - 1)], strict=True))
