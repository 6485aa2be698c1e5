"""Samples in memory, and batches from any map-style data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, default_collate

from mmkd.data.padding import collated, trimmed
from mmkd.types import SHOWN, Batch, ConfigError, Modality, Padded, Public, Views


class Samples(Dataset[tuple[Any, Tensor, Tensor]]):
    """Labelled samples of one modality or of several, held as tensors.

    Args:
        x: ``[samples, ...]``, a dictionary of such tensors (``Views`` says what may be in it), or sequences
            of unequal length that are ``Padded``.
        y: ``[samples]`` classes, ``NO_LABEL`` where a sample has none; or boxes of objects,
            ``[samples, slots, 5]`` float: corners x1, y1, x2 and y2 of a box in pixels, and its class
            (``mmkd.functional.detection.boxes`` has them); or other targets, as a student reads them: soft
            labels, tags or values (see docs/labels.md). Floats stay floats; whole numbers become int64.
        ids: ``[samples]`` sample ids; positions if left out.

    Raises:
        ConfigError: one of these is no array of numbers.
    """

    def __init__(self, x: Views, y: Tensor, ids: Tensor | None = None) -> None:
        self.x = _tensors(x)
        self.y = _labels(_numbers(y))
        self.ids = torch.arange(len(self.y)) if ids is None else _numbers(ids)
        self.looked_through: dict[Any, tuple[Any, Tensor, tuple[Tensor, Tensor | None]]] = {}
        """What readers have found out about them, by the kind of labels; see ``mmkd.data.reader``."""

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Any, Tensor, Tensor]:
        return _row(self.x, i), self.y[i], self.ids[i]

    def take(
        self, indices: Int[Tensor, " batch"]
    ) -> tuple[Any, Shaped[Tensor, "batch ..."], Int[Tensor, " batch"]]:
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
        views: for each modality a tensor ``[samples, ...]``, or sequences that are ``Padded``; where a view
            is missing its values have no effect, and are replaced by zeros. (Normalisation over a batch in
            training mode counts these zeros, as any sample; other normalisations, and evaluation mode, are
            free of them.)
        shown: for each modality ``[samples]`` bool, whether it shows the sample; all, if left out.

    Raises:
        ConfigError: there are no views, or they are not of equal length.
    """

    def __init__(
        self, views: Mapping[Modality, Views], shown: Mapping[Modality, Tensor] | None = None
    ) -> None:
        views = {m: _tensors(x) for m, x in views.items()}
        given = {m: _numbers(s).bool() for m, s in (shown or {}).items()}
        sizes = {m: _size(x) for m, x in views.items()} | {f"shown of {m}": len(s) for m, s in given.items()}
        if len(set(sizes.values())) != 1:
            raise ConfigError(f"views of the same public samples are of equal length, not {sizes}")
        size = _size(next(iter(views.values())))
        self.looked_through = False
        """Whether a reader has seen that they are finite."""
        self.shown = {m: given.get(m, torch.ones(size, dtype=torch.bool)) for m in views}
        self.views = {
            m: tree_map(partial(_blanked, shown=self.shown[m]), x) if m in given else x
            for m, x in views.items()
        }

    def __len__(self) -> int:
        return _size(next(iter(self.views.values())))

    def __getitem__(self, i: int) -> dict[Modality, Any]:
        return {m: _row(x, i) if self.shown[m][i] else None for m, x in self.views.items()}

    def take(self, indices: Int[Tensor, " batch"]) -> Public:
        """The samples at ``indices``, collated."""
        return Public(
            indices,
            {m: trimmed(tree_map(lambda t: t[indices], x)) for m, x in self.views.items()},
            {m: s[indices] for m, s in self.shown.items()},
        )


def _labels(y: Tensor) -> Tensor:
    """Whole numbers of any type as int64, by which tensors are indexed; floats as they are."""
    return y if y.is_floating_point() else y.long()


def _tensors(x: Views) -> Views:
    """Views whose arrays of NumPy and lists are tensors."""
    return tree_map(_numbers, x, is_leaf=lambda part: isinstance(part, list))


def _numbers(values: Any) -> Tensor:
    """An array of NumPy or a list as a tensor."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"samples are tensors or arrays of numbers, and this is none: {error}") from error


def _size(view: Views) -> int:
    """How many samples a view is of."""
    leaf: Tensor = tree_leaves(view)[0]
    return len(leaf)


def _blanked(x: Tensor, shown: Tensor) -> Tensor:
    return x.masked_fill(~shown.view(-1, *[1] * (x.dim() - 1)), 0)


def _row(x: Views, i: int) -> Any:
    """A sample; one that is held padded comes without its padding."""
    if isinstance(x, Padded):
        return x.values[i, : int(x.lengths[i])]
    return {name: _row(view, i) for name, view in x.items()} if isinstance(x, Mapping) else x[i]


def _rows(x: Views, indices: Tensor) -> Any:
    if isinstance(x, Tensor):  # mapping over a tree takes longer than a small read
        return x.index_select(0, indices)
    return tree_map(lambda t: t.index_select(0, indices), x)


def view_of(public: Public, modality: Modality) -> tuple[Views | None, Bool[Tensor, " samples"]]:
    """The view of public samples that a peer of a modality, single or combined, reads, and which it sees.

    A peer of several modalities sees a sample if at least one of its views is there. The view is
    None where no sample can be seen.
    """
    parts = modality.split("+")
    present = [part for part in parts if part in public.views]
    if not present:
        return None, torch.zeros_like(public.ids, dtype=torch.bool)
    seen = torch.stack([public.shown[part] for part in present]).any(0)
    if not seen.any():
        return None, seen
    if len(parts) == 1:
        return public.views[modality], seen
    return {m: public.views[m] for m in present} | {SHOWN + m: public.shown[m] for m in present}, seen


def take_private(data: Dataset[Any], indices: Int[Tensor, " batch"], key: int) -> Batch:
    """A batch from any data set of ``(x, y)`` or ``(x, y, id)`` samples; ``y`` as of ``Samples``."""
    take = getattr(data, "take", None)  # gathers a whole batch at once
    if take is not None:
        x, y, ids = take(indices)
        return Batch(trimmed(x), y, ids, key)
    samples = [data[int(i)] for i in indices]
    if not isinstance(samples[0], tuple | list) or len(samples[0]) < 2:
        raise TypeError("a sample is (x, y) or (x, y, id)")
    x, labels, *ids = (list(column) for column in zip(*samples, strict=True))
    y = torch.as_tensor(default_collate(labels))
    if isinstance(labels[0], float):  # these are collated in double precision
        y = y.to(torch.get_default_dtype())
    return Batch(collated(x), _labels(y), default_collate(ids[0]) if ids else indices, key)


def take_public(data: Dataset[Any], indices: Int[Tensor, " batch"]) -> Public:
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
        views[modality] = collated([blank if x is None else x for x in column])
        shown[modality] = torch.tensor([x is not None for x in column])
    return Public(indices, views, shown)


def labels_of(data: Dataset[Any]) -> Shaped[Tensor, "samples ..."]:
    """All labels of a labelled data set; read once, sample by sample if need be."""
    y = getattr(data, "y", None)
    if isinstance(y, Tensor):
        return y
    labels = [torch.as_tensor(data[i][1]) for i in range(len(cast(Any, data)))]
    return _labels(torch.stack(labels) if labels else torch.empty(0, dtype=torch.long))
