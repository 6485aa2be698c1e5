"""What a text may also have read like: changes that keep most of each word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.augmentation.base import Augmentation
from mmkd.bounds import BelowOne, Share, bounded
from mmkd.functional.random import uniforms

Texts = Int[Tensor, "samples tokens"]
"""Tokens of texts, with 0 after the end of each."""
Streams = Int[Tensor, " samples"]
"""The random stream of each sample."""


@bounded
@dataclass(frozen=True)
class Typos(Augmentation):
    """Swaps two neighbouring tokens of a text, or drops one, each with a chance of its own.

    The first token stays where it is, and texts of less than three stay as they are: what is left of a word
    still tells which it is.

    Args:
        swap: chance that two neighbours are swapped.
        drop: chance that a token is dropped.
    """

    swap: Share = 0.25
    drop: Share = 0.25

    modality: ClassVar[str] = "text"

    def __call__(self, x: Texts, streams: Streams) -> Texts:
        """Changed texts."""
        drawn = uniforms(streams, 4)
        length, place = (x != 0).sum(1), torch.arange(x.shape[1])
        long = length >= 3
        first = 1 + (drawn[:, 0] * (length - 2).clamp(min=1)).long()  # of the two
        swaps = long & (drawn[:, 1] < self.swap)
        order = place.repeat(len(x), 1)
        rows = swaps.nonzero()[:, 0]
        order[rows, first[rows]], order[rows, first[rows] + 1] = first[rows] + 1, first[rows]
        x = x.gather(1, order)
        gone = 1 + (drawn[:, 2] * (length - 1).clamp(min=1)).long()
        drops = long & (drawn[:, 3] < self.drop)
        dropped = drops[:, None] & (place == gone[:, None])
        return _closed(x, dropped)


@bounded
@dataclass(frozen=True)
class TokenDropout(Augmentation):
    """Drops each token by itself; the first one stays.

    Args:
        share: of tokens that are dropped on average.
    """

    share: BelowOne = 0.1

    modality: ClassVar[str] = "text"

    def __call__(self, x: Texts, streams: Streams) -> Texts:
        """Changed texts."""
        dropped = uniforms(streams, x.shape[1]) < self.share
        dropped[:, 0] = False
        return _closed(x, dropped)


def _closed(x: Texts, dropped: Tensor) -> Texts:
    """The texts without the tokens that are dropped, with 0 at their ends."""
    order = dropped.to(torch.int8).argsort(dim=1, stable=True)
    return (x * ~dropped).gather(1, order)
