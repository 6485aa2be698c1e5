"""Which entries of a cache go when there are too many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class Seen(NamedTuple):
    """What has been seen of the entries of each speaker."""

    said: Int[Tensor, "speakers samples"]  # tick at which it was said; negative, if there is no entry
    used: Int[Tensor, "speakers samples"]  # tick at which it was said or read last
    uses: Int[Tensor, "speakers samples"]  # how often it was said or read
    drift: Float[Tensor, "speakers samples"]  # how much it changed a tick, when it was said anew last


class Eviction(ABC):
    """Says what an entry is worth; of each speaker those of the least worth go, of equals the later samples.

    Both ends of a link see the same, so a speaker knows what its listeners have let go.
    """

    @abstractmethod
    def worth(self, seen: Seen, tick: int) -> Shaped[Tensor, "speakers samples"]:
        """What each entry is worth at a tick."""


class LeastRecentlyUsed(Eviction):
    """Lets go what nobody has said or read for the longest time."""

    def worth(self, seen: Seen, tick: int) -> Shaped[Tensor, "speakers samples"]:
        """The tick of the last use."""
        return seen.used


class LeastFrequentlyUsed(Eviction):
    """Lets go what was said or read the fewest times."""

    def worth(self, seen: Seen, tick: int) -> Shaped[Tensor, "speakers samples"]:
        """The number of uses; what is said at this tick, and could not be used yet, comes first."""
        return seen.uses.masked_fill(seen.said == tick, torch.iinfo(seen.uses.dtype).max)


class TimeToLive(Eviction):
    """Lets go what becomes stale first."""

    def worth(self, seen: Seen, tick: int) -> Shaped[Tensor, "speakers samples"]:
        """The tick at which it was said."""
        return seen.said


class ExpectedChange(Eviction):
    """Lets go what has probably changed most since it was said, and so is said anew soonest anyway."""

    def worth(self, seen: Seen, tick: int) -> Shaped[Tensor, "speakers samples"]:
        """The negative of what it changed a tick, times its age."""
        return -seen.drift * (tick - seen.said)


def kept(
    worth: Shaped[Tensor, "speakers samples"], held: Bool[Tensor, "speakers samples"], entries: int
) -> Bool[Tensor, "speakers samples"]:
    """Which entries stay where each speaker may have at most ``entries``.

    Args:
        worth: of each entry.
        held: which entries there are.
        entries: the most that stay.
    """
    least = torch.finfo(torch.float64).min
    order = worth.double().masked_fill(~held, least).argsort(dim=-1, descending=True, stable=True)
    first = torch.zeros_like(held).scatter(-1, order[..., :entries], value=True)
    return first & held
