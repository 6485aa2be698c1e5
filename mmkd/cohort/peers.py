"""The peers of a cohort as coordination sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mmkd.cohort.divergence import Divergence
from mmkd.cohort.groups.base import Group
from mmkd.cohort.losses import Losses
from mmkd.cohort.peer_axis import PeerAxis
from mmkd.cohort.precision import as_read
from mmkd.data.samples import view_of
from mmkd.schedule import Timetable
from mmkd.students.base import Student
from mmkd.transport import Facts
from mmkd.types import Modality, PeerName, Predictions, Public

_T = TypeVar("_T")

TOGETHER = 512
"""How many peers' predictions on a batch of an evaluation are in memory at a time."""


@dataclass(frozen=True)
class Peers:
    """Who the peers are, in which groups they train, and when; facts of peers in other processes."""

    names: Sequence[PeerName]
    """In canonical order."""
    ids: Mapping[PeerName, str]
    modalities: Mapping[PeerName, Modality]
    everybody: Mapping[PeerName, Facts]
    """Facts of these peers and of those in other processes, in canonical order."""
    groups: Sequence[Group]
    axis: PeerAxis
    timetable: Timetable
    losses: Losses
    divergence: Divergence
    device: torch.device
    num_classes: int
    accumulate: int
    """Parts into which a local batch is cut."""
    clipped: bool
    """Whether local gradients are clipped."""
    dtype: torch.dtype = torch.float32
    """Precision of the cohort; students may have been built in another."""

    @property
    def whole(self) -> bool:
        """Whether all peers are in this process."""
        return len(self.everybody) <= len(self.names)

    def here(self, names: Sequence[PeerName]) -> list[int]:
        """Positions among ``names`` of the peers in this process."""
        if self.whole:
            return list(range(len(names)))
        return [i for i, name in enumerate(names) if name in self.ids]

    def modality(self, number: int) -> Modality:
        """Modality that the peers of group ``number`` read."""
        return self.modalities[self.groups[number].names[0]]

    def student(self, name: PeerName) -> Student:
        """A student on the peer's current tensors (no copy)."""
        group, row = self.axis.locate(name)
        return group.student(row)

    def rows_of(self, names: Sequence[PeerName]) -> dict[int, list[int]]:
        """Rows of peers by the number of their group, in canonical order; groups of none are left out."""
        wanted = set(names)
        rows = {
            number: [row for row, name in enumerate(group.names) if name in wanted]
            for number, group in enumerate(self.groups)
        }
        return {number: chosen for number, chosen in rows.items() if chosen}

    def predict_public(
        self, number: int, rows: Sequence[int], public: Public, stream: int
    ) -> Predictions | None:
        """Predictions of rows of group ``number`` on public samples; None if they can see none."""
        view, _ = view_of(public, self.modality(number))
        return None if view is None else self.groups[number].predict(rows, view, stream)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put all students in evaluation mode for a block, and back into their modes after it."""
        training = [group.training for group in self.groups]
        for group in self.groups:
            group.eval()
        try:
            yield
        finally:
            for group, was_training in zip(self.groups, training, strict=True):
                group.train(was_training)

    def to_device(self, batch: _T) -> _T:
        """The batch on the device of the students, in double precision if the cohort computes in that."""
        batch = as_read(batch, self.dtype)
        if self.device.type == "cpu":  # moving nothing would take longer than a small step
            return batch
        moved: _T = tree_map_only(Tensor, lambda t: t.to(self.device), batch)
        return moved
