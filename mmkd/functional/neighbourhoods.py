"""Combinations of what each peer hears that are no weighted sums: medians, trimmed means and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.functional.graph import Graph
from mmkd.functional.trees import Tree

Rule: TypeAlias = Callable[[Tree, Float[Tensor, "listeners heard"]], Tree]
"""A function from what each listener hears, ``[listeners, heard, ...]``, and the weights of those heard (rows
sum to 1) to what each listener takes, ``[listeners, ...]``."""

AT_ONCE = 2**24
"""How many of the numbers that listeners hear are in memory at a time."""


@torch.no_grad()
def reduce_neighbourhoods(
    tree: Mapping[str, Float[Tensor, "peers ..."]],
    graph: Graph,
    weights: Float[Tensor, " peers"],
    rule: Rule,
    listeners: Int[Tensor, " some"] | None = None,
) -> dict[str, Float[Tensor, "peers ..."]]:
    """Apply ``rule`` to the rows of each peer and of those that it hears, a chunk of listeners at a time.

    Listeners that hear equally many go together, so a rule needs no mask and cannot read what a listener
    does not hear. A listener is among those that it hears, in the order of the peers.

    Args:
        tree: one row a peer.
        graph: who hears whom.
        weights: of the peers, renormalised over those that a listener hears (all alike, if they sum to 0).
        rule: see ``Rule``.
        listeners: those whose rows are computed; all, if None. Other rows are zeros.
    """
    place, there = graph.around
    width = sum(leaf[0].numel() for leaf in tree.values())
    reduced = {name: torch.zeros_like(leaf) for name, leaf in tree.items()}
    degrees = there.sum(1)
    if listeners is not None:
        wanted = torch.zeros_like(degrees).index_fill_(0, listeners, 1)
        degrees = degrees * wanted  # who hears, hears itself at least
    for degree in degrees[degrees > 0].unique().tolist():
        alike = (degrees == degree).nonzero()[:, 0]
        for some in alike.split(max(1, AT_ONCE // max(1, degree * width))):
            heard = place[some, :degree]
            combined = rule(
                {name: leaf[heard.to(leaf.device)] for name, leaf in tree.items()}, shares(weights[heard])
            )
            for name, leaf in reduced.items():
                leaf[some.to(leaf.device)] = combined[name].to(leaf.dtype)
    return reduced


def shares(weights: Float[Tensor, "listeners heard"]) -> Float[Tensor, "listeners heard"]:
    """Each row over its sum; equal shares where the sum is 0."""
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, weights / total, 1 / weights.shape[1])
