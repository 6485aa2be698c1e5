"""The gradients of one tick: private losses and lessons, corrected and clipped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.cohort.coordinator import Coordinator, Lesson, Needs
from mmkd.cohort.groups.base import Group
from mmkd.cohort.losses import Losses
from mmkd.cohort.parts import parts_of
from mmkd.cohort.peer_axis import PeerAxis
from mmkd.data.blocks import some_peers
from mmkd.types import Batches, PeerName, Step


@dataclass(frozen=True)
class Differentiation:
    """Computes the gradients that optimizers descend at a tick."""

    groups: Sequence[Group]
    axis: PeerAxis
    losses: Losses
    clip: float | None
    """Greatest norm of each peer's gradient."""
    accumulate: int
    """Parts into which a local batch is cut."""
    backward: Callable[[Tensor], None]
    """Computes gradients of a scalar, with Lightning's handling of precision."""
    unscale: Callable[[], None] | None
    """Divides gradients of scaled losses by the scale; some may have overflowed. None without a scaler."""
    timed: Callable[[str], AbstractContextManager[Any]]
    """Measures the time of a part of a step, for the profiler."""

    def __call__(
        self, step: Step, rows: Sequence[list[int]], coordinator: Coordinator | None, needs: Needs
    ) -> None:
        """Gradients of the peers that step (``rows`` of every group), corrected and clipped.

        Rows whose scaled loss has overflowed are removed from ``rows``, and take no step.
        """
        lessons = list[Lesson | None]([None] * len(self.groups))
        if coordinator is not None and needs.teach:
            with self.timed("knowledge, its forward"):
                lessons = coordinator.teach(step, list(rows))
        for batches in step.private:
            number, group = self.axis.group_of(batches.peers)
            keep, lesson = None, lessons[number]
            if lesson is not None:
                batches, keep = self._beside(lesson, batches, rows[number], group)
            if batches.peers:
                with self.timed("forward"):
                    self._descend(step.tick, group, batches, keep)
        taught = [lesson.loss.sum() for lesson in lessons if lesson is not None]
        if taught:
            self.backward(taught[0] if len(taught) == 1 else torch.stack(taught).sum())
        kept = self._kept(rows, lessons) if needs.correct else {}
        if self.unscale is not None:
            self.unscale()
            step = self._without_overflow(step, rows)
        if coordinator is not None and needs.correct:
            with self.timed("exchange"):
                coordinator.correct(step, kept)
        if self.clip is not None:
            for group, active in zip(self.groups, rows, strict=True):
                if active:
                    group.clip(active, self.clip)

    def _without_overflow(self, step: Step, rows: Sequence[list[int]]) -> Step:
        """The step without the peers whose gradients are not finite, which are cleared."""
        lost: set[PeerName] = set()
        for group, active in zip(self.groups, rows, strict=True):
            finite = group.finite(active)
            if len(finite) < len(active):
                dropped = sorted(set(active) - set(finite))
                group.drop(dropped)
                lost.update(group.names[row] for row in dropped)
                active[:] = finite
        return without(step, lost)

    @staticmethod
    def _beside(
        lesson: Lesson, batches: Batches, active: list[int], group: Group
    ) -> tuple[Batches, Float[Tensor, " peers"]]:
        """Private batches beside a lesson, and how much each peer keeps of its private loss.

        Peers that learn from others alone in this step need not read their own samples.
        """
        order = {row: place for place, row in enumerate(active)}
        positions = [order[row] for row in group.rows(batches.peers)]
        keep = lesson.keep[positions]
        needed = [i for i, place in enumerate(positions) if lesson.private[place]]
        if len(needed) == len(positions):
            return batches, keep
        return some_peers(batches, needed), keep[needed]

    def _descend(self, tick: int, group: Group, batches: Batches, keep: Tensor | None) -> None:
        """Compute gradients of private losses, each multiplied by ``keep``."""
        losses = []
        for part, share in parts_of(group, batches, self.accumulate):
            scale = keep
            if isinstance(share, Tensor) or share != 1:
                one = torch.ones(len(part.peers), dtype=torch.float64, device=part.ids.device)
                scale = share * (one if keep is None else keep)
            found = group.differentiate(part, scale, self.backward)
            losses.append(share.to(found) * found if isinstance(share, Tensor) else share * found)
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)
        self.losses.add(tick, batches.peers, loss, batches.size)

    def _kept(self, rows: Sequence[list[int]], lessons: Sequence[Lesson | None]) -> dict[PeerName, float]:
        """The weight of its private loss for each peer that has a lesson."""
        kept: dict[PeerName, float] = {}
        for group, active, lesson in zip(self.groups, rows, lessons, strict=True):
            if lesson is not None:
                names = [group.names[row] for row in active]
                kept |= dict(zip(names, lesson.keep.tolist(), strict=True))
        return kept


def without(step: Step, absent: Collection[PeerName]) -> Step:
    """The step without the private batches of some peers."""
    if not any(peer in absent for same in step.private for peer in same.peers):
        return step
    left = [
        some_peers(same, [i for i, peer in enumerate(same.peers) if peer not in absent])
        for same in step.private
    ]
    return step._replace(private=[same for same in left if same.peers])
