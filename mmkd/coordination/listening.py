"""Listening in chunks: targets of many listeners, some of whom listen at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmkd.coordination.targets import Targets, expanded
from mmkd.knowledge.base import Heard, Statements
from mmkd.types import Target

LISTENERS = 1024
"""How many peers listen at a time, since the matrix of who hears whom among more would fill memory."""


def listen_in_chunks(
    knowledge: Statements,
    heard: Mapping[str, Heard],
    hears: Callable[[int, int], Bool[Tensor, "some speakers"]],
    own: Int[Tensor, " listeners"],
    *,
    everybody: bool = False,
) -> Targets:
    """Targets of all listeners.

    Args:
        knowledge: what they make of statements.
        heard: statements of all speakers.
        hears: rows of the matrix of listeners and speakers, from one listener to another.
        own: which speaker each listener is.
        everybody: whether everybody hears everybody; then, if the first listeners share one row of
            targets, all others share it, too.
    """
    spoke, whole = next(iter(heard.values())).spoke, Targets()
    for start in range(0, len(own), LISTENERS):
        stop = min(start + LISTENERS, len(own))
        rows = hears(start, stop)
        mine = torch.zeros_like(rows)
        mine[torch.arange(stop - start), own[start:stop]] = True
        part = knowledge.listen(heard, rows.to(spoke.device), mine.to(spoke.device))
        if stop - start == len(own):
            return part
        if everybody and all(t.values.stride(0) == t.weight.stride(0) == 0 for t in part.values()):
            one = {n: t._replace(values=t.values[:1], weight=t.weight[:1]) for n, t in part.items()}
            return expanded(one, len(own))
        for name, (values, weight, probabilities) in part.items():
            if name not in whole:
                room = [t.new_empty(len(own), *t.shape[1:]) for t in (values, weight)]
                whole[name] = Target(room[0], room[1], probabilities)
            whole[name].values[start:stop], whole[name].weight[start:stop] = values, weight
    return whole
