"""The contract of a consensus, checked on random logits."""

from __future__ import annotations

import torch

from mmkd.functional.random import generator
from mmkd.knowledge import Consensus, Heard
from mmkd.testing.listening import SPEAKERS, check_hearing, graphs
from mmkd.testing.require import require

SAMPLES = 4
"""Number of samples that are spoken about."""
CLASSES = 3
"""Number of classes of the logits."""


def check_consensus(consensus: Consensus, *, temperature: float = 2.0) -> None:
    """Check that a rule makes targets of what is heard and of nothing else.

    Targets are probabilities, one row for each listener, of weight 0 where nobody spoke; the order of
    speakers changes them by rounding at most; its arguments are unchanged.

    Raises:
        AssertionError: one of these does not hold; the message says which.
    """
    name = type(consensus).__name__
    logits = torch.randn(SPEAKERS, SAMPLES, CLASSES, generator=generator("consensus"))
    spoke = torch.ones(SPEAKERS, SAMPLES, dtype=torch.bool)
    spoke[:, 3], spoke[0, 0] = False, False
    heard = Heard(logits, spoke)
    for graph in graphs():
        given = logits.clone(), spoke.clone()
        values, weight, _ = consensus.combine(heard, graph.hears, temperature)
        shape = (len(graph.hears), SAMPLES, CLASSES)
        require(values.shape == shape, f"{name}: values are {list(values.shape)} and should be {list(shape)}")
        require(weight.shape == shape[:2], f"{name}: weights are {list(weight.shape)}, not {list(shape[:2])}")
        require(bool((weight >= 0).all()), f"{name}: a weight is negative or not finite")
        require(not weight[:, 3].any(), f"{name}: a sample of which nobody spoke has weight; give it 0")
        taught = values[weight > 0]
        sums = torch.allclose(taught.sum(-1), torch.ones(len(taught), dtype=taught.dtype), atol=1e-4)
        require(sums and bool((taught >= 0).all()), f"{name}: a target is no distribution over classes")
        unchanged = torch.equal(logits, given[0]) and torch.equal(spoke, given[1])
        require(unchanged, f"{name} changes what it is given; work on a copy")
        turned = Heard(logits.flip(0), spoke.flip(0))
        again = consensus.combine(turned, graph.hears.flip(1), temperature)
        require(torch.allclose(again.values, values, atol=1e-5), f"{name} depends on the order of speakers")

    def listen(heard: dict[str, Heard], hears: torch.Tensor, own: torch.Tensor) -> list[torch.Tensor]:
        return list(consensus.combine(heard["main"], hears | own, temperature)[:2])

    check_hearing(listen, {"main": Heard(logits, torch.ones_like(spoke))}, name)  # type: ignore[arg-type]  # a dict is given
