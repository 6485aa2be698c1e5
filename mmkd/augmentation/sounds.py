"""What a sound may also have sounded like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.augmentation.base import Augmentation
from mmkd.bounds import BelowOne, Finite, bounded
from mmkd.functional.random import normals, uniforms
from mmkd.types import ConfigError

Sounds = Float[Tensor, "samples time"]
"""Waveforms of one length."""
Streams = Int[Tensor, " samples"]
"""The random stream of each sample."""


@bounded
@dataclass(frozen=True)
class Warp(Augmentation):
    """Plays sounds earlier or later and faster or slower, about their middle; silence comes in at an end.

    Args:
        shift: most of the length by which a sound moves.
        speed: most by which it is faster or slower, as a share; its pitch moves with it.
    """

    shift: BelowOne = 0.1
    speed: BelowOne = 0.1

    modality: ClassVar[str] = "audio"

    def __call__(self, x: Sounds, streams: Streams) -> Sounds:
        """Changed sounds, interpolated linearly."""
        length = x.shape[-1]
        drawn = (2 * uniforms(streams, 2) - 1)[..., None]
        middle = (length - 1) / 2
        time = torch.arange(length, dtype=torch.float64)
        at = (time - middle) * (1 + self.speed * drawn[:, 0]) + middle + self.shift * length * drawn[:, 1]
        before = at.floor()
        part = (at - before).to(x.dtype)
        first, second = (x.gather(1, i.long().clamp(0, length - 1)) for i in (before, before + 1))
        there = (at >= 0) & (at <= length - 1)
        return torch.where(there, first + part * (second - first), torch.zeros_like(first))


@bounded
@dataclass(frozen=True)
class Noise(Augmentation):
    """Adds white noise, at a signal-to-noise ratio that is drawn for each sound.

    Args:
        low: least ratio, in dB.
        high: greatest ratio, in dB.
    """

    low: Finite = 10.0
    high: Finite = 30.0

    modality: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigError(f"Noise: low is at most high; they are {self.low} and {self.high} dB")

    def __call__(self, x: Sounds, streams: Streams) -> Sounds:
        """Changed sounds."""
        drawn = uniforms(streams, 1)
        decibel = self.low + (self.high - self.low) * drawn
        level = x.double().square().mean(1, keepdim=True).sqrt() * 10 ** (-decibel / 20)
        return x + (level * normals(streams, x.shape[1])).to(x.dtype)


@bounded
@dataclass(frozen=True)
class Masks(Augmentation):
    """Silences a stretch of time and a band of frequencies, as SpecAugment does (Park et al. 2019).

    Args:
        time: most of the length that is silenced.
        band: most of the frequencies that are.
    """

    time: BelowOne = 0.1
    band: BelowOne = 0.1

    modality: ClassVar[str] = "audio"

    def __call__(self, x: Sounds, streams: Streams) -> Sounds:
        """Changed sounds."""
        drawn = uniforms(streams, 4)
        spectrum = torch.fft.rfft(x)
        kept = torch.fft.irfft(spectrum * ~_between(spectrum.shape[1], drawn[:, :2], self.band), n=x.shape[1])
        heard: Tensor = kept * ~_between(x.shape[1], drawn[:, 2:], self.time)
        return heard


def _between(size: int, drawn: Tensor, most: float) -> Tensor:
    """For each sample and place, whether it lies in a stretch of drawn length and beginning."""
    length = (drawn[:, :1] * most * size).floor()
    start = (drawn[:, 1:] * (size - length + 1)).floor()
    place = torch.arange(size)
    return (place >= start) & (place < start + length)
