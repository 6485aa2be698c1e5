"""The datamodule of CNR-EXT: frames of nine cameras on one car park, and the cars in its slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.parking import CAR, Tree
from mmkd.bounds import BelowOne, Bound, Count, bounded
from mmkd.data.peers import PeerDataModule
from mmkd.data.samples import PublicSamples, Samples
from mmkd.functional.random import generator
from mmkd.types import ConfigError, PeerName

Pixels: TypeAlias = Annotated[int, Bound(1, 10_000)]
"""A side of a frame; larger frames would fill the memory."""


@bounded
class CnrExt(PeerDataModule):
    """Frames of up to nine cameras on one car park, and the cars in them (Amato et al. 2017).

    Each peer has one camera. A sample is

    - image: uint8 ``[3, height, width]``;
    - y: ``[slots, 5]`` float, x1, y1, x2, y2 in pixels of that frame and a class. Every slot that has a label
      in the frame is a row of class ``KNOWN``, and if it is occupied its box is a row of class 0 as well;
      the other rows are ``EMPTY``. Cars elsewhere have no labels, so a detection outside of all ``KNOWN``
      areas is neither right nor wrong; nor is that of a car that the folder lists as ``UNLABELLED``. All
      frames have the same number of rows.

    The splits are the published ones. Nothing is downloaded. Frames stay in memory once they were read.
    Frames that have labels but no file are left out, with a warning.

    Args:
        root: folder in the published layout, or in the same layout drawn by ``datamodules.parking.render``.
        cameras: number of the camera of each peer, in the order of the peers' ids; 1 to 9 if left out.
        height: height in pixels of the frames that peers read.
        width: width in pixels of the frames that peers read.
        public: share of each camera's training frames, drawn with the seed, that all peers see without
            labels; they are then nobody's private frames.
        frames: upper bound on the training frames of a camera, public ones included, which are then spread
            evenly over time; all of them if left out.
        kwargs: arguments of ``PeerDataModule``.

    Raises:
        ConfigError: an argument is out of range, or the folder is not as ``Tree`` wants it.
    """

    num_classes = 1
    modalities = ("image",)

    def __init__(
        self,
        *,
        root: str,
        cameras: Sequence[int] | None = None,
        height: Pixels = 375,
        width: Pixels = 500,
        public: BelowOne = 0.0,
        frames: Count | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cameras = list(range(1, 10)) if cameras is None else list(cameras)
        self.height, self.width = height, width
        self.tree = Tree(root, self.cameras)
        self._share, self._limit = public, frames
        self._held: dict[tuple[int, str], Samples] = {}
        self._public: PublicSamples | None = None

    def camera(self, peer: PeerName) -> int:
        """The number of a peer's camera.

        Raises:
            ConfigError: there are more peers than cameras.
        """
        peers = self.of("image")
        if len(peers) > len(self.cameras):
            raise ConfigError(
                f"{len(peers)} peers want a camera each, and there are {len(self.cameras)}; have fewer peers"
                " or list more cameras"
            )
        return self.cameras[peers.index(peer)]

    def private(self, peer: PeerName, split: str) -> Samples:
        """The frames of a peer's camera, ordered by time.

        ``ids`` count the camera's frames of the split before any become public.

        Raises:
            ConfigError: the camera has no frames in that split, or one of them cannot be read.
        """
        camera = self.camera(peer)
        if (camera, split) not in self._held:
            chosen, paths = self._private(camera, split), self.frames_of(peer, split)
            if not paths:
                raise ConfigError(f"camera {camera} has no {split} frames; leave it out of cameras")
            x = self.tree.images(paths, self.height, self.width)
            self._held[camera, split] = Samples(x, self._truth(camera, split, chosen), chosen)
        return self._held[camera, split]

    def frames_of(self, peer: PeerName, split: str) -> list[str]:
        """Paths in the folder of the frames that ``private`` returns, in its order."""
        camera = self.camera(peer)
        frames = self.tree.frames[camera][split]
        return [frames[int(i)].path for i in self._private(camera, split)]

    def public(self, split: str) -> PublicSamples:
        """The public frames of all cameras, whatever the split.

        Raises:
            ConfigError: there are none.
        """
        if self._public is None:
            frames = {n: self.tree.frames[n]["train"] for n in self.cameras}
            paths = [frames[n][int(i)].path for n in self.cameras for i in self._drawn(n)[0]]
            if not paths:
                raise ConfigError("there are no public frames; set public to a share of the training frames")
            self._public = PublicSamples({"image": self.tree.images(paths, self.height, self.width)})
        return self._public

    def label_counts(self, peer: PeerName) -> Int[Tensor, " classes"]:
        """How many cars a peer's private training frames show; no image is read for it."""
        camera = self.camera(peer)
        truth = self._truth(camera, "train", self._private(camera, "train"))
        return (truth[..., 4] == CAR).sum().reshape(1)

    def _truth(self, camera: int, split: str, chosen: Tensor) -> Float[Tensor, "frames rows 5"]:
        return self.tree.truth(camera, split, self.height, self.width, self.tree.rows)[chosen]

    def _private(self, camera: int, split: str) -> Int[Tensor, " frames"]:
        """Positions among a camera's frames of a split of those that are private."""
        return (
            self._drawn(camera)[1] if split == "train" else torch.arange(len(self.tree.frames[camera][split]))
        )

    def _drawn(self, camera: int) -> tuple[Int[Tensor, " public"], Int[Tensor, " private"]]:
        """Positions among a camera's training frames of the public ones and of the private ones."""
        size = len(self.tree.frames[camera]["train"])
        kept = size if self._limit is None else min(size, self._limit)
        # The middle of each of as many equal stretches of time.
        chosen = ((torch.arange(kept, dtype=torch.float64) + 0.5) * size / max(kept, 1)).long()
        order = torch.randperm(kept, generator=generator(self.seed, "public", camera))
        public, private = order.split([round(self._share * kept), kept - round(self._share * kept)])
        return chosen[public.sort().values], chosen[private.sort().values]
