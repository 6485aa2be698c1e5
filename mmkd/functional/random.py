"""Keyed random streams: a stream is named by what it is for, never by when it was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch
from jaxtyping import Float, Int
from torch import Tensor


def key(*parts: int | str) -> int:
    """A 63-bit seed that depends on all ``parts`` and on nothing else (not on ``PYTHONHASHSEED``).

    Example:
        >>> key(0, "cameras/0", "private", 7) == key(0, "cameras/0", "private", 7)
        True
    """
    return key_of_text(text_of(*parts))


def text_of(*parts: int | str) -> str:
    """The text that ``key`` hashes; keeping it makes thousands of keys with common parts cheaper."""
    return "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)


def key_of_text(*texts: str) -> int:
    """The key of parts whose texts (see ``text_of``) are given in order."""
    return int.from_bytes(blake2b("\x1f".join(texts).encode(), digest_size=8).digest(), "big") >> 1


def key_of_step(stream: int, step: int) -> int:
    """Seed number ``step`` of a stream, far cheaper than ``key``: SplitMix64 (Steele et al. 2014)."""
    z = (stream + (step + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 1


def scores_of_step(streams: Int[Tensor, "*shape"], step: int) -> Int[Tensor, "*shape"]:
    """``key_of_step`` of many streams at once: numbers to rank them by, afresh at every step."""
    return _mixed(streams + _signed((step + 1) * _GOLDEN))


def streams_of(keys: Int[Tensor, "*batches"], purpose: int, size: int) -> Int[Tensor, "*batches size"]:
    """A stream for each sample of batches, from the streams of the batches and what it is for."""
    return _mixed(_mixed(keys ^ _signed(purpose))[..., None] + torch.arange(1, size + 1) * _signed(_GOLDEN))


def uniforms(streams: Int[Tensor, " samples"], count: int) -> Float[Tensor, "samples count"]:
    """The first numbers of each stream, uniform in [0, 1), float64 (SplitMix64)."""
    steps = torch.arange(1, count + 1, device=streams.device) * _signed(_GOLDEN)
    return (_mixed(streams[:, None] + steps) >> 10).double() / 2**53


def normals(streams: Int[Tensor, " samples"], count: int) -> Float[Tensor, "samples count"]:
    """The first numbers of each stream, standard normal, float64 (Box and Muller 1958)."""
    drawn = uniforms(streams, 2 * count)
    radius = (-2 * (1 - drawn[:, :count]).log()).sqrt()
    return radius * (2 * math.pi * drawn[:, count:]).cos()


def _mixed(z: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """SplitMix64's finaliser, without the sign bit."""
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 1)


def _shifted(z: Int[Tensor, "*shape"], by: int) -> Int[Tensor, "*shape"]:
    return (z >> by) & (_MASK >> by)  # int64 shifts copy the sign bit


def _signed(number: int) -> int:
    """The int64 with the same lowest 64 bits."""
    return ((number + (1 << 63)) & _MASK) - (1 << 63)


_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator at the start of the stream named by ``parts``."""
    return torch.Generator().manual_seed(key(*parts))


@contextmanager
def keyed(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block on the stream ``seed``, then put the global generators back as they were.

    ``default_generator.manual_seed`` is some thirty times cheaper than ``torch.manual_seed``, which
    also visits every accelerator; a step of a small student is short enough for that to matter.
    """
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield
