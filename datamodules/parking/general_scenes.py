"""The datamodule of frames of many car parks, on which a detector for all car parks is trained."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from datamodules.parking.cnr_format import CAR, CARS, SPLITS, Box, Tree, cars_in, scaled
from mmkd.bounds import Size, bounded
from mmkd.data.peers import PeerDataModule
from mmkd.data.samples import PublicSamples, Samples
from mmkd.functional.detection.boxes import EMPTY
from mmkd.types import ConfigError, PeerName


@bounded
class GeneralScenes(PeerDataModule):
    """Frames of many car parks with all their cars, on which a detector for all car parks is trained.

    Every peer has all frames. Samples are as those of ``CnrExt``, but all cars have labels, so there are no
    ``KNOWN`` areas.

    Args:
        root: folder that ``render_general`` wrote.
        height: height in pixels of the frames that peers read.
        width: width in pixels of the frames that peers read.
        kwargs: arguments of ``PeerDataModule``.

    Raises:
        ConfigError: there are no places in the folder, or one of them lacks its cars.
    """

    num_classes = 1
    modalities = ("image",)

    def __init__(self, *, root: str, height: Size = 375, width: Size = 500, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trees = [Tree(path, [1]) for path in sorted(Path(root).glob("place*"))]
        if not self.trees:
            raise ConfigError(
                f"there are no places in '{root}'; draw them with datamodules.parking.render_general"
            )
        if short := [tree.root for tree in self.trees if not (tree.root / CARS).is_file()]:
            raise ConfigError(f"'{short[0]}' has no {CARS}; draw all places anew, in an empty folder")
        self.height, self.width = height, width
        self._held: dict[str, Samples] = {}

    def private(self, peer: PeerName, split: str) -> Samples:
        """All frames of a split, place by place: one object for all peers."""
        if split not in self._held:
            paths = [[f.path for f in tree.frames[1][split]] for tree in self.trees]
            x = [t.images(p, self.height, self.width) for t, p in zip(self.trees, paths, strict=True)]
            cars = [c[path] for c, p in zip(self._cars, paths, strict=True) for path in p]
            y = torch.zeros(len(cars), max(len(c) for held in self._cars for c in held.values()), 5)
            y[..., 4] = EMPTY
            for own, boxes in zip(y, cars, strict=True):
                own[: len(boxes)] = torch.tensor([(*box, CAR) for box in boxes]).reshape(-1, 5)
            self._held[split] = Samples(torch.cat(x), y)
        return self._held[split]

    @cached_property
    def _cars(self) -> list[dict[str, list[Box]]]:
        """Corners in pixels of all cars, by the path of the frame, for each place."""
        found = []
        for tree in self.trees:
            cars = cars_in(tree.root / CARS)
            paths = [f.path for split in SPLITS for f in tree.frames[1][split]]
            found.append(
                {p: [scaled(box, self.height, self.width) for box in cars.get(p, ())] for p in paths}
            )
        return found

    def public(self, split: str) -> PublicSamples:
        """Refuses, for a student on these data trains alone and nobody teaches it.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("GeneralScenes has no public frames; it is for a student that trains alone")

    def label_counts(self, peer: PeerName) -> Int[Tensor, " classes"]:
        """How many cars the training frames show."""
        return (self.private(peer, "train").y[..., 4] > EMPTY).sum().reshape(1)
