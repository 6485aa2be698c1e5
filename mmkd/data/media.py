"""How images, sounds and texts are read, alike for all peers, with constants and no statistics of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.bounds import Positive, Size, bounded
from mmkd.data.catalogue import View
from mmkd.data.decoded import Decoded
from mmkd.data.texts import TextView
from mmkd.types import ConfigError

FRAME = 0.025
"""Seconds of the shortest sound that can be heard: a frame of speech."""


class MediaError(ConfigError):
    """A file cannot be read; says which, and why."""


class Medium(ABC):
    """How files of one modality become what its students read."""

    @abstractmethod
    def decode(self, path: Path) -> Tensor:
        """A file as the whole numbers that are kept.

        Raises:
            MediaError: it cannot be read.
        """

    @abstractmethod
    def view(
        self, names: Sequence[str], root: Path, stamps: Int[np.ndarray, "samples 2"], cache: Path
    ) -> View:
        """The view of samples, whose files are opened when they are first read."""


@bounded
@dataclass(frozen=True)
class Images(Medium):
    """Images ``[channels, size, size]`` float in 0 to 1, resized (antialiased), whatever their proportions.

    Args:
        size: height and width in pixels.
        channels: 3 of colours, 1 of grey.
    """

    size: Size = 32
    channels: Literal[1, 3] = 3

    def decode(self, path: Path) -> Tensor:
        """A file of any kind that torchvision or Pillow reads."""
        from torchvision.transforms.v2.functional import resize

        image = self._opened(path)
        if min(image.shape[-2:]) < 2:
            raise MediaError(
                f"{path} is an image of {image.shape[-1]} x {image.shape[-2]} pixels: leave it out"
            )
        resized: Tensor = resize(image, [self.size, self.size], antialias=True)
        return resized

    def _opened(self, path: Path) -> Tensor:
        from PIL import Image

        _not_empty(path)
        try:
            with Image.open(path) as file:  # Pillow refuses images that would fill the memory
                pixels = np.array(file.convert("RGB" if self.channels == 3 else "L"))
        except Exception as error:  # whatever a broken file does to a decoder
            raise MediaError(f"{path} is no image that can be read: {_reason(error)}") from error
        return torch.from_numpy(pixels).view(*pixels.shape[:2], self.channels).permute(2, 0, 1)

    def view(
        self, names: Sequence[str], root: Path, stamps: Int[np.ndarray, "samples 2"], cache: Path
    ) -> View:
        """The view of images."""
        shape = (self.channels, self.size, self.size)
        return Decoded(names, root, stamps, self.decode, shape, np.uint8, cache, self)


@bounded
@dataclass(frozen=True)
class Sounds(Medium):
    """Sounds ``[rate * seconds]`` float in -1 to 1: one channel, the mean of all, at one rate.

    Longer ones lose both ends alike; shorter ones are followed by silence.

    Args:
        rate: samples a second, to which sounds are resampled.
        seconds: that are heard.
    """

    rate: Size = 16_000
    seconds: Positive = 1.0

    @property
    def length(self) -> int:
        """Samples that are heard."""
        return max(1, round(self.rate * self.seconds))

    def decode(self, path: Path) -> Tensor:
        """A file of any kind that libsndfile reads: WAV, FLAC, OGG, MP3."""
        from torchaudio.functional import resample

        wave, rate = self._opened(path)
        if len(wave) < FRAME * rate:
            raise MediaError(
                f"{path} is a sound of {1000 * len(wave) / rate:.0f} ms, shorter than a frame of"
                f" {1000 * FRAME:.0f}: leave it out"
            )
        wave = wave if rate == self.rate else resample(wave, rate, self.rate)
        start = max(0, (len(wave) - self.length) // 2)
        heard = wave[start : start + self.length].clamp(-1, 1)
        kept = torch.zeros(self.length, dtype=torch.int16)
        kept[: len(heard)] = (heard * torch.iinfo(torch.int16).max).round().to(torch.int16)
        return kept

    def _opened(self, path: Path) -> tuple[Float[Tensor, " samples"], int]:
        try:
            import soundfile
        except ImportError:
            raise ConfigError("sound files need soundfile: install mmkd[data]") from None
        _not_empty(path)
        _not_cut_off(path)
        try:
            wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except Exception as error:  # whatever a broken file does to a decoder
            raise MediaError(f"{path} is no sound that can be read: {_reason(error)}") from error
        found = torch.from_numpy(wave).mean(1)
        if not bool(found.isfinite().all()):
            raise MediaError(f"{path} is a sound with numbers that are not finite: leave it out")
        return found, int(rate)

    def view(
        self, names: Sequence[str], root: Path, stamps: Int[np.ndarray, "samples 2"], cache: Path
    ) -> View:
        """The view of sounds."""
        return Decoded(names, root, stamps, self.decode, (self.length,), np.int16, cache, self)


@bounded
@dataclass(frozen=True)
class Texts:
    """Texts as ids of tokens ``[length]``, with 0 after the end of a text.

    Args:
        length: of a text in tokens; what is longer loses its end.
        tokenizer: ``ascii`` has a token for each of 127 characters, and writes others as those that look like
            them; ``public`` is trained on public texts alone, for private ones are never pooled; anything
            else is the folder of a tokenizer of transformers.
        vocabulary: most tokens of a ``public`` one, padding included.
    """

    length: Size = 64
    tokenizer: str = "ascii"
    vocabulary: Size = 2000

    def view(self, texts: Sequence[str], public: Callable[[], Int[Tensor, " _"]]) -> View:
        """The view of texts, which are read when they are first asked for.

        Args:
            texts: empty, where a sample has none.
            public: the rows that are public.
        """
        return TextView(texts, public, self.tokenizer, self.length, self.vocabulary)


def _not_empty(path: Path) -> None:
    try:
        if path.stat().st_size == 0:
            raise MediaError(f"{path} is empty: leave it out, or bring it back")
    except OSError as error:
        raise MediaError(f"{path} cannot be opened: {error.strerror}") from error


def _not_cut_off(path: Path) -> None:
    """Refuse a WAV file that is shorter than it says, of which libsndfile reads what is left."""
    with path.open("rb") as file:
        head = file.read(8)
    promised, size = int.from_bytes(head[4:], "little") + 8, path.stat().st_size
    # Whoever writes to a pipe says 0 or all ones; some forget a last byte of padding.
    if head[:4] == b"RIFF" and 8 < promised < 2**32 + 7 and promised > size + 1:
        raise MediaError(
            f"{path} is cut off: it has {size} of {promised} bytes; leave it out, or bring it back"
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
