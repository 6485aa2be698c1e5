"""What an image may also have looked like."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.augmentation.base import Augmentation
from mmkd.bounds import AtLeastZero, BelowOne, Bound, Count, bounded
from mmkd.functional.random import keyed, uniforms
from mmkd.types import ConfigError

Images = Float[Tensor, "samples channels height width"]
"""Images of numbers between 0 and 1."""
Streams = Int[Tensor, " samples"]
"""The random stream of each sample."""


@bounded
@dataclass(frozen=True)
class Affine(Augmentation):
    """Shifts, turns and scales images about their middle; what comes in at an edge looks like the edge.

    Args:
        shift: most of the height and width by which an image moves.
        rotate: most degrees by which it turns, either way.
        scale: most by which it grows or shrinks, as a share.
        flip: whether every second one is mirrored, left to right.
    """

    shift: BelowOne = 0.1
    rotate: AtLeastZero = 10.0
    scale: BelowOne = 0.1
    flip: bool = False

    modality: ClassVar[str] = "image"

    def __call__(self, x: Images, streams: Streams) -> Images:
        """Changed images."""
        _check(x, "Affine")
        height, width = x.shape[-2:]
        drawn = (2 * uniforms(streams, 5) - 1).to(x)  # each in -1 to 1
        angle = drawn[:, 0] * self.rotate * pi / 180
        size = 1 + self.scale * drawn[:, 1]
        across, down = 2 * self.shift * drawn[:, 2], 2 * self.shift * drawn[:, 3]
        mirrored = torch.where(drawn[:, 4] < 0, -1.0, 1.0) if self.flip else torch.ones_like(angle)
        # Where each pixel comes from, in pixels from the middle; element by element, so that no sample's
        # bits depend on those beside it.
        right = (torch.arange(width, dtype=x.dtype) + 0.5 - width / 2)[None, None, :]
        below = (torch.arange(height, dtype=x.dtype) + 0.5 - height / 2)[None, :, None]
        cos, sin = ((f(angle) / size)[:, None, None] for f in (torch.cos, torch.sin))
        from_x = (cos * right - sin * below) * 2 / width * mirrored[:, None, None] + across[:, None, None]
        from_y = (sin * right + cos * below) * 2 / height + down[:, None, None]
        grid = torch.stack([from_x, from_y], -1)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


@bounded
@dataclass(frozen=True)
class RandAugment(Augmentation):
    """RandAugment (Cubuk et al. 2020) of torchvision: some operations drawn at random, one image at a time.

    Args:
        operations: how many an image goes through.
        magnitude: of each, of 31 steps.
    """

    operations: Count = 2
    magnitude: Annotated[int, Bound(0, 30)] = 9

    modality: ClassVar[str] = "image"

    def __call__(self, x: Images, streams: Streams) -> Images:
        """Changed images, of 256 steps of brightness."""
        from torchvision.transforms import v2

        _check(x, "RandAugment")
        change = v2.RandAugment(self.operations, self.magnitude)
        whole = (x.clamp(0, 1) * 255).round().to(torch.uint8)
        made = []
        for image, stream in zip(whole, streams.tolist(), strict=True):
            with keyed(stream):
                made.append(change(image))
        return torch.stack(made).to(x.dtype) / 255


def _check(x: Tensor, name: str) -> None:
    if x.dim() != 4 or not x.is_floating_point():
        raise ConfigError(
            f"{name} changes images [channels, height, width] of floats, and these are {list(x.shape[1:])}"
            f" {x.dtype}"
        )
