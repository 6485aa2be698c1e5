"""Frames with bright rectangles on noise: what detectors can learn in seconds."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.functional.detection.boxes import EMPTY

HEIGHT, WIDTH, SLOTS = 48, 64, 4


def scene(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Frames ``[count, 3, HEIGHT, WIDTH]`` of bytes, and boxes ``[count, SLOTS, 5]``; some frames are empty."""
    stream = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 60, (count, 3, HEIGHT, WIDTH), generator=stream, dtype=torch.uint8)
    y = torch.zeros(count, SLOTS, 5)
    y[..., 4] = EMPTY
    for frame, rows in zip(x, y, strict=True):
        for slot in range(int(torch.randint(0, SLOTS, (1,), generator=stream))):
            left, top, width, height = (
                int(torch.randint(low, high, (1,), generator=stream))
                for low, high in ((0, WIDTH - 20), (0, HEIGHT - 16), (10, 20), (8, 16))
            )
            frame[:, top : top + height, left : left + width] = 220
            rows[slot] = torch.tensor([left, top, left + width, top + height, 0.0])
    return x, y


class Frames(PeerDataModule):
    """Every peer has frames of its own."""

    num_classes, modalities = 1, ("image",)

    def __init__(self, *, train: int = 12, public: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes = {"train": train, "val": 6, "test": 6}
        self.shared = public
        self._made = cache(self._make)

    def _make(self, peer: str, split: str) -> Samples:
        number = sorted(self.peers).index(peer) * 10 + list(self.sizes).index(split)
        return Samples(*scene(number + 1, self.sizes[split]))

    def private(self, peer: str, split: str) -> Dataset[Any]:
        """Rectangles."""
        return self._made(peer, split)

    def public(self, split: str) -> Dataset[Any]:
        """Rectangles without boxes."""
        return PublicSamples({"image": scene(999, self.shared)[0]})

    def label_counts(self, peer: str) -> Tensor:
        """Rectangles."""
        return (self._made(peer, "train").y[..., 4] == 0).sum().view(1)
