"""Targets of many listeners as one tensor: merged, selected, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmkd.transport import Stack
from mmkd.types import Batches, Target

Targets: TypeAlias = dict[str, Target]
"""Targets ``[listeners, samples, ...]`` by the name of a statement."""


def expanded(targets: Targets, listeners: int) -> Targets:
    """Targets of all listeners, who share one row if there is one for all."""
    return {
        name: target._replace(
            values=target.values.expand(listeners, *target.values.shape[1:]),
            weight=target.weight.expand(listeners, *target.weight.shape[1:]),
        )
        for name, target in targets.items()
    }


def of_receivers(arrived: Sequence[tuple[Stack, Targets]], names: Sequence[str]) -> Targets:
    """Targets of some listeners from the answers of a hub; they have no weight for one that gets none.

    Args:
        arrived: stacks of answers, and their targets, a row each, or one for all receivers.
        names: the listeners.
    """
    whole = Targets()
    for stack, targets in arrived:
        row_of = dict.fromkeys(stack.receivers, 0)
        if stack.edges is not None:
            row_of = {stack.receivers[place]: row for place, row in stack.edges.T.tolist()}
        places = [i for i, name in enumerate(names) if name in row_of]
        rows = [row_of[names[i]] for i in places]
        for name, (values, weight, probabilities) in targets.items():
            if name not in whole:
                room = [t.new_zeros(len(names), *t.shape[1:]) for t in (values, weight)]
                whole[name] = Target(room[0], room[1], probabilities)
            whole[name].values[places], whole[name].weight[places] = values[rows], weight[rows]
    return whole


def merged(targets: Targets, places: Sequence[int], old: Targets, size: int, *, in_place: bool) -> Targets:
    """New targets of some listeners joined with the old ones of the others.

    Args:
        targets: new ones, a row for each of ``places``; a listener without one loses its old one.
        places: positions of those listeners among all.
        old: of all listeners.
        size: number of all listeners.
        in_place: whether the old ones may be overwritten.
    """
    both = Targets()
    for name in dict.fromkeys([*old, *targets]):
        like = targets.get(name) or old[name]
        if name in old:
            values, weight = old[name].values, old[name].weight
        else:
            values, weight = (t.new_zeros(size, *t.shape[1:]) for t in (like.values, like.weight))
        if name in old and not in_place:
            values, weight = values.clone(), weight.clone()
        weight[places] = 0.0
        if name in targets:
            values[places], weight[places] = targets[name].values, targets[name].weight
        both[name] = Target(values, weight, like.probabilities)
    return both


def seen(targets: Targets, places: list[int], ids: Tensor | None, shown: Bool[Tensor, " samples"]) -> Targets:
    """Targets of some listeners about samples that they see; no copy if these are all listeners.

    Args:
        targets: of all listeners.
        places: positions of the chosen listeners among them.
        ids: samples; all, if None.
        shown: which of those samples they see.
    """

    def pick(tensor: Tensor) -> Tensor:
        whole = places == list(range(len(tensor)))
        if ids is None:
            return tensor if whole else tensor[places]
        return tensor[:, ids] if whole else tensor[torch.tensor(places, device=ids.device)[:, None], ids]

    return {n: t._replace(values=pick(t.values), weight=pick(t.weight) * shown) for n, t in targets.items()}


def of_labels(target: Target, places: Int[Tensor, " peers"], batches: Batches) -> Target:
    """What is taught about the classes of samples; nothing, of those without a label.

    Args:
        target: about classes, of all listeners.
        places: of the peers of ``batches`` among them.
        batches: labelled samples of those peers.
    """
    assert batches.y is not None
    y = batches.y if batches.labelled is None else batches.y.clamp(min=0)
    weight = target.weight[places[:, None], y]
    if batches.labelled is not None:
        weight = weight * batches.labelled
    return target._replace(values=target.values[places[:, None], y], weight=weight)


def heard_any(targets: Targets) -> Bool[Tensor, " listeners"]:
    """Whether each listener has heard anything."""
    return torch.stack([(target.weight != 0).any(-1) for target in targets.values()]).any(0)


def saved_targets(targets: Targets) -> dict[str, list[Any]]:
    """Targets as a checkpoint holds them: one copy, where all listeners share one row."""
    return {
        name: [*(t[:1].clone() if t.stride(0) == 0 else t.clone() for t in target[:2]), target[2]]
        for name, target in targets.items()
    }


def loaded_targets(saved: Mapping[str, Sequence[Any]], listeners: int, device: torch.device) -> Targets:
    """Targets of all listeners from what ``saved_targets`` gave."""
    targets = {
        name: Target(values.to(device), weight.to(device), probabilities)
        for name, (values, weight, probabilities) in saved.items()
    }
    return expanded(targets, listeners)
