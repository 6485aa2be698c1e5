"""The check that a rule uses nothing but what a listener hears, on a ring, a cycle and other graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from mmkd.knowledge.base import Heard
from mmkd.testing.require import require
from mmkd.topology import DirectedCycle, Ring

SPEAKERS = 5
"""Number of peers of every graph."""


class Listening(NamedTuple):
    """A graph of five speakers: its name, and the two matrices that a rule is given."""

    name: str
    hears: Bool[Tensor, "listeners speakers"]
    own: Bool[Tensor, "listeners speakers"]


def graphs() -> list[Listening]:
    """A ring, a directed cycle, a sampled round and a hub, on which rules are checked."""
    names, one = [str(i) for i in range(SPEAKERS)], torch.eye(SPEAKERS, dtype=torch.bool)
    ring = Ring().adjacency(names, 0)
    sampled = ring.clone()
    sampled[:, 1] = sampled[1] = False  # the second peer sits out
    return [
        Listening("a ring", ring, one),
        Listening("a directed cycle", DirectedCycle().adjacency(names, 0), one),
        Listening("a sampled round on a ring", sampled, one),
        Listening(
            "a hub", torch.ones(1, SPEAKERS, dtype=torch.bool), torch.zeros(1, SPEAKERS, dtype=torch.bool)
        ),
    ]


def disturbed(heard: Mapping[str, Heard], speaker: int, how: str) -> dict[str, Heard]:
    """The same statements, except that one speaker says other numbers, infinite numbers, or nothing."""
    changed = {}
    for name, (values, spoke) in heard.items():
        values, spoke = values.clone(), spoke.clone()
        if how == "silent":
            spoke[speaker] = False
        else:
            values[speaker] = torch.nan if how == "not finite" else 3 - 2 * values[speaker]
        changed[name] = Heard(values, spoke)
    return changed


WAYS = ("other", "not finite", "silent")
"""Ways to disturb what one speaker says."""


def check_hearing(
    listen: Callable[[Mapping[str, Heard], Tensor, Tensor], Sequence[Tensor]],
    heard: Mapping[str, Heard],
    what: str,
) -> None:
    """Check that what a speaker says changes no bit of the results of listeners that do not hear it.

    Args:
        listen: makes tensors ``[listeners, ...]`` of statements, whom each listener hears, and who it is.
        heard: statements of all speakers.
        what: name of the rule, for the message.

    Raises:
        AssertionError: it changes one.
    """
    for graph in graphs():
        before = listen(heard, graph.hears, graph.own)
        for speaker in range(SPEAKERS):
            apart = ~(graph.hears | graph.own)[:, speaker]
            for way in WAYS:
                after = listen(disturbed(heard, speaker, way), graph.hears, graph.own)
                same = all(torch.equal(a[apart], b[apart]) for a, b in zip(before, after, strict=True))
                require(
                    same,
                    f"{what}: on {graph.name} what speaker {speaker} says ({way}) changes what a listener"
                    " makes that does not hear it; use values only where hears says so",
                )
