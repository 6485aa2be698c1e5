"""Draws of splits: shares of every class alike, and whole groups, so that no person is in two parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def stratified(
    labels: Int[Tensor, " samples"],
    groups: Int[Tensor, " samples"] | None,
    shares: Sequence[float],
    stream: torch.Generator,
) -> list[Int[Tensor, " _"]]:
    """Sorted positions of the samples of each part, and at the end those of the rest.

    Groups are shuffled and laid side by side so that those of each class are spread evenly; the parts are cut
    from that row. A group counts as of the class of most of its samples, and lies in the part in which its
    middle falls. Without groups each sample is one.

    Args:
        labels: classes; samples without one are a class of their own.
        groups: numbers of groups, from 0 on.
        shares: of all samples that each part gets; together at most 1.
        stream: of random numbers.
    """
    if len(labels) == 0:
        return [torch.empty(0, dtype=torch.long) for _ in (*shares, 0)]
    known = np.unique(labels.numpy(), return_inverse=True)[1].astype(np.int64)
    member = np.arange(len(known)) if groups is None else groups.numpy()
    sizes = np.bincount(member)
    label = _most(known, member, len(sizes))
    order = torch.randperm(len(sizes), generator=stream).numpy()
    order = order[np.argsort(label[order], kind="stable")]  # by class, in random order within each
    ends = sizes[order].cumsum()
    middle = ends - sizes[order] / 2
    total = np.bincount(label, weights=sizes)
    before = total.cumsum() - total
    place = (middle - before[label[order]]) / total[label[order]]
    row = order[np.argsort(place, kind="stable")]
    middle = sizes[row].cumsum() - sizes[row] / 2
    cuts = np.cumsum(shares) * len(known)
    part = np.empty(len(sizes), dtype=np.int64)
    part[row] = np.searchsorted(cuts, middle, side="right")
    return [torch.from_numpy(np.flatnonzero(part[member] == i)) for i in range(len(shares) + 1)]


def _most(labels: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """The most frequent label of each group; the lowest, if two are equally frequent."""
    width = int(labels.max()) + 1
    pairs, often = np.unique(groups * width + labels, return_counts=True)
    order = np.lexsort((-pairs, often))  # the most frequent of a group comes last, and is kept
    found = np.zeros(count, dtype=np.int64)
    found[pairs[order] // width] = pairs[order] % width
    return found


def dealt(groups: Int[Tensor, " samples"], peers: int, stream: torch.Generator) -> list[Int[Tensor, " _"]]:
    """Sorted positions of the samples of each peer, which owns whole groups: each goes to whoever has least.

    Raises:
        ValueError: there are fewer groups than peers.
    """
    sizes = torch.bincount(groups)
    there = sizes.nonzero()[:, 0]
    if len(there) < peers:
        raise ValueError(f"{len(there)} groups cannot be dealt to {peers} peers; have fewer peers")
    there = there[torch.randperm(len(there), generator=stream)]
    there = there[sizes[there].argsort(descending=True, stable=True)]
    owner, has = torch.empty(len(sizes), dtype=torch.long), torch.zeros(peers, dtype=torch.long)
    for group in there.tolist():
        least = int(has.argmin())
        owner[group] = least
        has[least] += sizes[group]
    return [(owner[groups] == peer).nonzero()[:, 0] for peer in range(peers)]
