"""What a motion may also have been measured as."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.augmentation.base import Augmentation
from mmkd.bounds import AtLeastZero, bounded
from mmkd.functional.random import normals
from mmkd.types import ConfigError

Motions = Float[Tensor, "samples channels time"]
"""Measurements over time, of one length."""
Streams = Int[Tensor, " samples"]
"""The random stream of each sample."""


@bounded
@dataclass(frozen=True)
class Jitter(Augmentation):
    """Adds noise to every measurement, and multiplies each channel by a factor (Um et al. 2017).

    Args:
        noise: its standard deviation, for a channel whose deviation is 1.
        scale: standard deviation of factors about 1.
    """

    noise: AtLeastZero = 0.05
    scale: AtLeastZero = 0.1

    modality: ClassVar[str] = ""

    def __call__(self, x: Motions, streams: Streams) -> Motions:
        """Changed motions."""
        channels, time = x.shape[1:]
        drawn = normals(streams, channels * (time + 1)).view(len(x), channels, time + 1).to(x.dtype)
        spread = x.std(-1, correction=0, keepdim=True)
        return x * (1 + self.scale * drawn[..., :1]) + self.noise * spread * drawn[..., 1:]


@bounded
@dataclass(frozen=True)
class Rotation(Augmentation):
    """Turns the device that measures: every three channels are axes, all turned alike (Um et al. 2017).

    Args:
        degrees: standard deviation of the angle.
    """

    degrees: AtLeastZero = 15.0

    modality: ClassVar[str] = ""

    def __call__(self, x: Motions, streams: Streams) -> Motions:
        """Changed motions."""
        if x.shape[1] % 3:
            raise ConfigError(f"Rotation turns triples of axes, and these motions have {x.shape[1]} channels")
        drawn = normals(streams, 4)
        axis = drawn[:, :3] / drawn[:, :3].square().sum(1, keepdim=True).sqrt()
        angle = drawn[:, 3] * self.degrees * pi / 180
        cos, sin = ((f(angle)[:, None, None]).to(x.dtype) for f in (torch.cos, torch.sin))
        k = axis[:, None, :, None].to(x.dtype)
        v = x.unflatten(1, (-1, 3))
        cross = torch.linalg.cross(k.expand_as(v), v, dim=2)
        along = (k * v).sum(2, keepdim=True)
        turned: Tensor = v * cos[..., None] + cross * sin[..., None] + k * along * (1 - cos[..., None])
        return turned.flatten(1, 2)
