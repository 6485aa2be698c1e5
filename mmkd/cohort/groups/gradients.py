"""Where gradients of stacked parameters are written: in the memory of the last ones, if nobody kept those."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmkd.cohort.groups.active_rows import Where


class Gradients:
    """Puts gradients of all active rows, or of some, into ``p.grad``."""

    def __init__(self) -> None:
        self._spare: dict[Tensor, Tensor] = {}
        self.lent = False
        """Whether somebody else holds gradients, whose memory then is not written again."""

    def add(self, where: Where, gradients: Mapping[Tensor, Tensor], alone: bool) -> None:
        """To what a lesson or another part of the batch has left there, unless these come alone.

        Args:
            where: places of the rows that they are of.
            gradients: ``[rows, ...]`` by parameter.
            alone: whether nobody has a gradient yet, and all active rows are about to get one.
        """
        for p, g in gradients.items():
            if where is None and p.grad is None:  # fused optimizers take a gradient's layout for granted
                p.grad = g if g.stride() == p.stride() else self._room(p).copy_(g)
                continue
            if p.grad is None:
                p.grad = self._room(p) if alone else torch.zeros_like(p)
            if alone:
                p.grad[where] = g
            else:
                p.grad[... if where is None else where] += g

    def _room(self, p: Tensor) -> Tensor:
        """Where a gradient is written: where the last one was, for fresh memory costs as much as the copy."""
        room = self._spare.get(p)
        if room is None or room.shape != p.shape:
            room = self._spare[p] = torch.empty_like(p)
        return room

    def forget(self) -> None:
        """They have been used; memory that somebody else holds is left to them."""
        if self.lent:
            self._spare, self.lent = {}, False
