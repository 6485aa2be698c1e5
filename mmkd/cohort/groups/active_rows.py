"""The rows of a stack that take local steps, kept together so that steps of few rows cost little."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name", bound=Hashable)
"""The type of the names of a group's tensors."""
Where: TypeAlias = slice | Tensor | None
"""Positions of some active rows: consecutive ones, any, or all in order (None)."""


class ActiveRows(Generic[Name]):
    """Stacked tensors ``[rows, ...]``, of which the active rows lie in smaller tensors of their own.

    At first all rows are active, and ``live`` holds all. Once fewer are active, ``live`` holds those alone,
    in the order in which they were named, and the others are stored elsewhere (parked). Training reads and
    writes ``live`` without a copy. A tensor keeps its identity (its ``.data`` is replaced), so an optimizer
    may hold it.

    Args:
        live: tensors of all rows by name.
        size: number of rows.
        folder: where parked rows are kept, in files that are mapped into memory and deleted with the process;
            in memory if left out.
    """

    def __init__(self, live: dict[Name, Tensor], size: int, folder: Path | None = None) -> None:
        self.live, self._folder = live, folder
        self.rows = list(range(size))
        """Active rows, in the order of ``live``."""
        self._all, self._places = list(self.rows), {row: row for row in self.rows}
        self._parked: dict[Name, Tensor] = {}
        self._mapped: set[int] = set()

    @property
    def whole(self) -> bool:
        """Whether all rows are active, in their order."""
        return len(self.rows) == len(self._all)

    def __contains__(self, row: int) -> bool:
        return row in self._places

    @torch.no_grad()
    def activate(self, rows: Sequence[int]) -> None:
        """Make these rows active, and no others; if these are all rows, in ascending order."""
        rows = self._all if len(rows) == len(self._all) else list(rows)
        if rows == self.rows:
            return
        self._park()
        self.rows, self._places = rows, {row: place for place, row in enumerate(rows)}
        if self.whole:
            for name, tensor in self.live.items():
                tensor.data = self._parked[name]
            self._parked = {}
        else:
            for name, tensor in self.live.items():
                tensor.data = self._parked[name].index_select(0, self._index(rows, tensor))

    def add(self, name: Name, tensor: Tensor) -> None:
        """Add a tensor of the active rows; it is zero for the others."""
        self.live[name] = tensor
        if not self.whole and name not in self._parked:
            self._parked[name] = self._room((len(self._all), *tensor.shape[1:]), tensor)

    def places(self, rows: Sequence[int]) -> list[int] | None:
        """Positions of rows in ``live``; None if they are all active rows, in that order.

        Raises:
            KeyError: one of them is not active.
        """
        return None if list(rows) == self.rows else [self._places[row] for row in rows]

    def where(self, rows: Sequence[int]) -> Where:
        """An index of rows into ``live``, a slice where they are consecutive, which needs no copy."""
        places = self.places(rows)
        if places is None:
            return None
        if places == list(range(places[0], places[0] + len(places))):
            return slice(places[0], places[0] + len(places))
        return torch.tensor(places)

    def read(self, rows: Sequence[int]) -> dict[Name, Tensor]:
        """Tensors of the rows: the live ones if they are all active rows, or else copies."""
        if list(rows) == self.rows:
            return dict(self.live)
        if all(row in self._places for row in rows):
            source, chosen = self.live, [self._places[row] for row in rows]
        else:
            self._park()
            source, chosen = self._parked, list(rows)
        return {name: t.index_select(0, self._index(chosen, t)) for name, t in source.items()}

    def view(self, name: Name, row: int) -> Tensor:
        """One row of a tensor, as a view of where it is stored."""
        if row in self._places:
            return self.live[name].detach()[self._places[row]]
        return self._parked[name][row]

    @torch.no_grad()
    def write(self, rows: Sequence[int], tensors: dict[Name, Tensor]) -> None:
        """Overwrite the rows of some tensors."""
        whole = list(rows) == self.rows
        active = [(i, self._places[row]) for i, row in enumerate(rows) if row in self._places]
        for name, values in tensors.items():
            values = values.to(self.live[name].dtype)
            if whole:
                self.live[name].copy_(values)
                continue
            if self._parked:
                self._parked[name].index_copy_(0, self._index(rows, values), values)
            if active:
                taken, places = (list(part) for part in zip(*active, strict=True))
                part = values[taken] if len(taken) < len(rows) else values
                self.live[name].index_copy_(0, self._index(places, values), part)

    def _park(self) -> None:
        """Copy active rows back to where all rows are stored."""
        if self.whole:
            self._parked = {name: self._put(tensor.data) for name, tensor in self.live.items()}
        else:
            for name, tensor in self.live.items():
                self._parked[name].index_copy_(0, self._index(self.rows, tensor), tensor.detach())

    def _put(self, whole: Tensor) -> Tensor:
        """The tensor in which all rows of another are stored while few are active."""
        if self._folder is None or whole.data_ptr() in self._mapped:
            return whole
        return self._room(whole.shape, whole).copy_(whole)

    def _room(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Zeros in memory, or in a file that is mapped into memory."""
        if self._folder is None:
            return like.new_zeros(shape)
        file, name = tempfile.mkstemp(suffix=".parked", dir=self._folder)
        os.close(file)
        room = torch.from_file(name, shared=True, size=math.prod(shape), dtype=like.dtype).view(shape)
        os.unlink(name)  # the file's content lasts as long as it is mapped
        self._mapped.add(room.data_ptr())
        return room

    @staticmethod
    def _index(rows: Sequence[int], like: Tensor) -> Tensor:
        return torch.tensor(rows, device=like.device)
