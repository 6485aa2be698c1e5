"""Who is heard, listener by listener: what a sparse graph of thousands costs is its edges, not its pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Neighbours(NamedTuple):
    """The speakers of each listener in their order, one a slot; who hears fewer leaves slots empty."""

    place: Int[Tensor, "listeners slots"]
    there: Bool[Tensor, "listeners slots"]


def neighbours(hears: Bool[Tensor, "listeners speakers"]) -> Neighbours:
    """Lists of a graph; as many slots as the greatest of them needs, one at least."""
    listener, speaker = hears.nonzero().unbind(1)
    count = torch.bincount(listener, minlength=len(hears))
    # Of a listener's speakers the first stands in slot 0, and edges are sorted by listener.
    slot = torch.arange(len(listener), device=hears.device) - (count.cumsum(0) - count)[listener]
    slots = max(1, int(count.max())) if len(hears) else 1
    place = torch.zeros(len(hears), slots, dtype=torch.long, device=hears.device)
    place[listener, slot] = speaker
    return Neighbours(place, torch.arange(slots, device=hears.device) < count[:, None])
