"""A catalogue of samples: what is known of each, and where its views come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from mmkd.data.padding import trimmed
from mmkd.types import Modality, Public, Views

PARTS = ("train", "val", "test", "public")
"""The parts of a catalogue, by their numbers."""
DRAWN = -1
"""The part of a sample for which it is to be drawn."""


class View(ABC):
    """What a modality shows of every sample of a catalogue."""

    @abstractmethod
    def take(self, rows: Int[Tensor, " batch"]) -> Views:
        """The views of those samples, ``[batch, ...]``; zeros where a sample has none.

        Raises:
            ConfigError: one of them cannot be read; the message names it.
        """

    def whole(self) -> Views | None:
        """The views of all samples, if they are to be held in memory."""
        return None


class Held(View):
    """Views in memory.

    Args:
        x: ``[samples, ...]``.
    """

    def __init__(self, x: Shaped[Tensor, "samples ..."]) -> None:
        self._x = x

    def take(self, rows: Int[Tensor, " batch"]) -> Views:
        """The views of those samples."""
        return self._x.index_select(0, rows)

    def whole(self) -> Views | None:
        """All of them."""
        return self._x


class Catalogue(NamedTuple):
    """Samples, whose numbers are their positions. Each has at least one view."""

    classes: Sequence[str]  # names
    y: Int[Tensor, " samples"]  # classes; NO_LABEL of public samples, which nobody reads
    views: Mapping[Modality, View]
    shown: Mapping[Modality, Bool[Tensor, " samples"]]  # whether the modality has a view of it
    part: Int[Tensor, " samples"]  # number among PARTS, or DRAWN
    owner: Sequence[str] | None = None  # peer that owns it; empty for parts other than train
    group: Int[Tensor, " samples"] | None = None  # such as a person: never in two parts


class Chosen(Dataset[tuple[Any, Tensor, Tensor]]):
    """Labelled samples of a catalogue, whose views are read when they are asked for.

    Args:
        catalogue: of all samples.
        rows: those that are chosen.
        modalities: that are read of each.
    """

    def __init__(self, catalogue: Catalogue, rows: Int[Tensor, " _"], modalities: Sequence[Modality]) -> None:
        self._views = {m: catalogue.views[m] for m in modalities}
        self.rows, self.y = rows, catalogue.y[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Any, Tensor, Tensor]:
        x, y, ids = self.take(torch.tensor([i]))
        return ({m: view[0] for m, view in x.items()} if isinstance(x, dict) else x[0]), y[0], ids[0]

    def take(self, indices: Int[Tensor, " batch"]) -> tuple[Any, Tensor, Int[Tensor, " batch"]]:
        """The samples at ``indices``, collated."""
        rows = self.rows[indices]
        views = {m: view.take(rows) for m, view in self._views.items()}
        return next(iter(views.values())) if len(views) == 1 else views, self.y[indices], rows


class ChosenPublic(Dataset[dict[Modality, Any]]):
    """Public samples of a catalogue, whose views are read when they are asked for.

    Args:
        catalogue: of all samples.
        rows: those that are public.
    """

    def __init__(self, catalogue: Catalogue, rows: Int[Tensor, " _"]) -> None:
        self._views, self.rows = catalogue.views, rows
        self.shown = {m: shown[rows] for m, shown in catalogue.shown.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[Modality, Any]:
        taken = self.take(torch.tensor([i]))
        return {m: x[0] if taken.shown[m][0] else None for m, x in taken.views.items()}

    def take(self, indices: Int[Tensor, " batch"]) -> Public:
        """The samples at ``indices``, collated."""
        rows = self.rows[indices]
        views = {m: trimmed(view.take(rows)) for m, view in self._views.items()}
        return Public(indices, views, {m: shown[indices] for m, shown in self.shown.items()})
