"""Samples in memory, and how a batch is drawn from any map-style data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, default_collate

from mmkd.types import SHOWN, Batch, ConfigError, Modality, Public, Views


class Samples(Dataset[tuple[Any, Tensor, Tensor]]):
    """Labelled samples of one modality or of several, held as tensors.

    Args:
        x: ``[samples, ...]``, or a dictionary of such tensors (``Views`` says what may be in it).
        y: ``[samples]`` classes, ``NO_LABEL`` where a sample has none; or what is to be found,
            ``[samples, slots, 5]`` float: corners x1, y1, x2 and y2 of a box in pixels, and its class
            (``mmkd.functional.detection.boxes`` has them); or whatever else a student learns from. Floats
            stay floats; whole numbers become int64.
        ids: ``[samples]`` sample ids; positions if left out.

    Raises:
        ConfigError: one of these is no array of numbers.
    """

    def __init__(self, x: Views, y: Tensor, ids: Tensor | None = None) -> None:
        self.x = _numbers(x) if isinstance(x, list) else tree_map(_numbers, x)
        self.y = _labels(_numbers(y))
        self.ids = torch.arange(len(self.y)) if ids is None else _numbers(ids)
        self.looked_through: dict[Any, tuple[Any, Tensor, tuple[Tensor, Tensor | None]]] = {}
        """What readers have found out about them, by the kind of labels; see ``mmkd.data.reader``."""

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Any, Tensor, Tensor]:
        return tree_map(lambda t: t[i], self.x), self.y[i], self.ids[i]

    def take(self, indices: Tensor) -> tuple[Any, Tensor, Tensor]:
        """The samples at ``indices``, collated."""
        x, y, ids = (_rows(t, indices) for t in (self.x, self.y, self.ids))
        return x, y, ids

    def subset(self, indices: Sequence[int] | Tensor) -> Samples:
        """The samples at ``indices`` as a data set of their own."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return Samples(*self.take(chosen))


class PublicSamples(Dataset[dict[Modality, Any]]):
    """Unlabelled samples, the same ids in every modality; a view may be missing.

    Args:
        views: for each modality a tensor ``[samples, ...]``; anything may stand where no view is, and is
            replaced by zeros. (These are counted by normalisation over a batch in training mode, as any
            sample is; other normalisations, and evaluation mode, are free of them.)
        shown: for each modality ``[samples]`` bool, whether it shows the sample; all, if left out.

    Raises:
        ConfigError: there are no views, or they are not of equal length.
    """

    def __init__(
        self, views: Mapping[Modality, Tensor], shown: Mapping[Modality, Tensor] | None = None
    ) -> None:
        views = {m: _numbers(x) for m, x in views.items()}
        given = {m: _numbers(s).bool() for m, s in (shown or {}).items()}
        sizes = {m: len(x) for m, x in views.items()} | {f"shown of {m}": len(s) for m, s in given.items()}
        if len(set(sizes.values())) != 1:
            raise ConfigError(f"views of the same public samples are of equal length, not {sizes}")
        size = len(next(iter(views.values())))
        self.looked_through = False
        """Whether a reader has seen that they are finite."""
        self.shown = {m: given.get(m, torch.ones(size, dtype=torch.bool)) for m in views}
        self.views = {
            m: x.masked_fill(~self.shown[m].view(-1, *[1] * (x.dim() - 1)), 0) if m in given else x
            for m, x in views.items()
        }

    def __len__(self) -> int:
        return len(next(iter(self.views.values())))

    def __getitem__(self, i: int) -> dict[Modality, Any]:
        return {m: x[i] if self.shown[m][i] else None for m, x in self.views.items()}

    def take(self, indices: Tensor) -> Public:
        """The samples at ``indices``, collated."""
        return Public(
            indices,
            {m: x[indices] for m, x in self.views.items()},
            {m: s[indices] for m, s in self.shown.items()},
        )


def _labels(y: Tensor) -> Tensor:
    """Whole numbers of any type as int64, by which tensors are indexed; floats as they are."""
    return y if y.is_floating_point() else y.long()


def _numbers(values: Any) -> Tensor:
    """Arrays of NumPy and lists as tensors."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"samples are tensors or arrays of numbers, and this is none: {error}") from error


def _rows(x: Views, indices: Tensor) -> Any:
    if isinstance(x, Tensor):  # walking through a tree takes longer than a small read
        return x.index_select(0, indices)
    return tree_map(lambda t: t.index_select(0, indices), x)


def view_of(public: Public, modality: Modality) -> tuple[Views | None, Bool[Tensor, " samples"]]:
    """What a peer of a modality, single or combined, reads of public samples, and which it can see.

    A peer of several modalities sees a sample if at least one of its views is there. Nothing is read
    (``None``) where no sample can be seen.
    """
    parts = modality.split("+")
    there = [part for part in parts if part in public.views]
    if not there:
        return None, torch.zeros_like(public.ids, dtype=torch.bool)
    seen = torch.stack([public.shown[part] for part in there]).any(0)
    if not seen.any():
        return None, seen
    if len(parts) == 1:
        return public.views[modality], seen
    return {m: public.views[m] for m in there} | {SHOWN + m: public.shown[m] for m in there}, seen


def take_private(data: Dataset[Any], indices: Tensor, key: int) -> Batch:
    """A batch from any data set of ``(x, y)`` or ``(x, y, id)`` samples; ``y`` as of ``Samples``."""
    take = getattr(data, "take", None)  # gathers a whole batch at once
    if take is not None:
        x, y, ids = take(indices)
        return Batch(x, y, ids, key)
    samples = [data[int(i)] for i in indices]
    if not isinstance(samples[0], tuple | list) or len(samples[0]) < 2:
        raise TypeError("a sample is (x, y) or (x, y, id)")
    parts = default_collate(samples)
    x, y = parts[0], torch.as_tensor(parts[1])
    if isinstance(samples[0][1], float):  # these are collated in double precision
        y = y.to(torch.get_default_dtype())
    return Batch(x, _labels(y), parts[2] if len(parts) > 2 else indices, key)


def take_public(data: Dataset[Any], indices: Tensor) -> Public:
    """A public batch from any data set of ``{modality: view or None}`` samples.

    A missing view is filled with zeros of the shape that the modality has elsewhere in the batch;
    a modality that shows nothing in the batch is absent from it.
    """
    take = getattr(data, "take", None)
    if take is not None:
        return cast(Public, take(indices))
    samples: list[dict[Modality, Any]] = [data[int(i)] for i in indices]
    views: dict[Modality, Views] = {}
    shown: dict[Modality, Tensor] = {}
    for modality in sorted({m for sample in samples for m in sample}):
        column = [sample.get(modality) for sample in samples]
        example = next((x for x in column if x is not None), None)
        if example is None:
            continue
        blank = torch.zeros_like(torch.as_tensor(example))
        views[modality] = default_collate([blank if x is None else x for x in column])
        shown[modality] = torch.tensor([x is not None for x in column])
    return Public(indices, views, shown)


def labels_of(data: Dataset[Any]) -> Tensor:
    """All labels of a labelled data set, ``[samples, ...]``; read once, sample by sample if need be."""
    y = getattr(data, "y", None)
    if isinstance(y, Tensor):
        return y
    labels = [torch.as_tensor(data[i][1]) for i in range(len(cast(Any, data)))]
    return _labels(torch.stack(labels) if labels else torch.empty(0, dtype=torch.long))
