"""Writing gradients of stacked parameters into the memory of the last ones, if nobody keeps those."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmkd.cohort.groups.active_rows import Where


class Gradients:
    """Writes gradients of all active rows, or of some, into ``p.grad``."""

    def __init__(self) -> None:
        self._spare: dict[Tensor, Tensor] = {}
        self.lent = False
        """Whether a caller holds the gradients, whose memory must then not be reused."""

    def add(self, where: Where, gradients: Mapping[Tensor, Tensor], alone: bool) -> None:
        """Add gradients to those of a lesson or of another part of the batch, or store them if alone.

        Args:
            where: positions of their rows.
            gradients: ``[rows, ...]`` by parameter.
            alone: whether nobody has a gradient yet, and all active rows are about to get one.
        """
        for p, g in gradients.items():
            if where is None and p.grad is None:  # fused optimizers need the weight's layout
                p.grad = g if g.stride() == p.stride() else self._room(p).copy_(g)
                continue
            if p.grad is None:
                p.grad = self._room(p) if alone else torch.zeros_like(p)
            if alone:
                p.grad[where] = g
            else:
                p.grad[... if where is None else where] += g

    def _room(self, p: Tensor) -> Tensor:
        """Memory for a gradient: that of the last one, for fresh memory costs as much time as the copy."""
        room = self._spare.get(p)
        if room is None or room.shape != p.shape:
            room = self._spare[p] = torch.empty_like(p)
        return room

    def forget(self) -> None:
        """Clear the gradients; memory that a caller holds is not reused."""
        if self.lent:
            self._spare, self.lent = {}, False
