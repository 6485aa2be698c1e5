"""Sequences of unequal length in one tensor: padded with zeros, and their lengths beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from mmkd.types import Padded, Views

LENGTHS = "/lengths"
"""What the name of a view is followed by to name the lengths of its sequences."""


def collated(samples: Sequence[Any]) -> Any:
    """What ``default_collate`` makes of samples; sequences ``[length]`` of unequal length become ``Padded``.

    Views of several modalities, in a dictionary, are looked at one by one.
    """
    first = samples[0]
    if isinstance(first, Mapping):
        return {name: collated([sample[name] for sample in samples]) for name in first}
    if getattr(first, "ndim", None) != 1 or len({len(sample) for sample in samples}) == 1:
        return default_collate(list(samples))
    sequences = [torch.as_tensor(sample) for sample in samples]
    longest = max(map(len, sequences))
    values = torch.stack([F.pad(sequence, (0, longest - len(sequence))) for sequence in sequences])
    return Padded(values, torch.tensor([len(sequence) for sequence in sequences]))


def is_padded(x: Views) -> bool:
    """Whether views hold sequences of unequal length."""
    return (
        any(isinstance(view, Padded) for view in x.values()) if isinstance(x, Mapping) else type(x) is Padded
    )


def trimmed(x: Views) -> Views:
    """The same with no more padding than it needs; a plain tensor if it needs none.

    So what a peer reads does not depend on how long the sequences are that it is read or held together with,
    not even by rounding.
    """
    return _each(x, _trimmed)


def of_one_length(views: Sequence[Views]) -> list[Views]:
    """Views of several peers, padded so that those of a modality are all as long as the longest, and stack.

    Where nothing is padded they stay as they are.
    """
    if not any(is_padded(x) for x in views):
        return list(views)
    if isinstance(views[0], Mapping) and len({frozenset(x) for x in views}) > 1:
        return list(views)  # some lack a modality, and do not stack with the others
    if not isinstance(views[0], Mapping):
        return _of_one_length(views)
    columns = {name: _of_one_length([x[name] for x in views]) for name in views[0]}
    return [{name: column[i] for name, column in columns.items()} for i in range(len(views))]


def as_tensors(x: Views) -> dict[str, Tensor]:
    """Views as tensors by name, as a message carries them; ``of_tensors`` is the way back."""
    parts = x if isinstance(x, Mapping) else {"x": x}
    tensors: dict[str, Tensor] = {}
    for name, view in parts.items():
        padded = isinstance(view, Padded)
        tensors |= {f"{name}{LENGTHS}": view.lengths, name: view.values} if padded else {name: view}
    return tensors


def of_tensors(tensors: Mapping[str, Tensor]) -> Views:
    """The views of which ``as_tensors`` made these."""
    views: dict[str, Any] = {name: t for name, t in tensors.items() if not name.endswith(LENGTHS)}
    for name in views:
        if f"{name}{LENGTHS}" in tensors:
            views[name] = Padded(views[name], tensors[f"{name}{LENGTHS}"])
    return views["x"] if list(views) == ["x"] else views


def _each(x: Views, change: Callable[[Padded], Any]) -> Views:
    if isinstance(x, Tensor) or not is_padded(x):
        return x
    if isinstance(x, Mapping):
        return {name: change(view) if isinstance(view, Padded) else view for name, view in x.items()}
    return change(x)


def _trimmed(x: Padded) -> Any:
    longest = int(x.lengths.max())
    values = x.values[..., :longest]
    return values if bool((x.lengths == longest).all()) else Padded(values, x.lengths)


def _of_one_length(views: Sequence[Any]) -> list[Any]:
    if not any(isinstance(view, Padded) for view in views):
        return list(views)
    longest = max((view.values if isinstance(view, Padded) else view).shape[-1] for view in views)
    padded = []
    for view in views:
        values, lengths = (
            view
            if isinstance(view, Padded)
            else (view, view.new_full(view.shape[:1], view.shape[1], dtype=torch.long))
        )
        padded.append(Padded(F.pad(values, (0, longest - values.shape[-1])), lengths))
    return padded
