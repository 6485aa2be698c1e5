"""Recordings of synthetic speech, which are synthesised once and then kept on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int16
from numpy import ndarray
from safetensors.torch import load, save
from torch import Tensor

from datamodules.speech import espeak
from mmkd.files import replacing
from mmkd.types import ConfigError

_LAYOUT = 1  # raise it when recordings change although their utterances do not


class Recordings(NamedTuple):
    """The sounds of utterances, without the silence around them, and with zeros after them."""

    wave: Int16[Tensor, "utterances samples"]
    length: Int[Tensor, " utterances"]  # samples before the zeros


def record(
    utterances: Sequence[espeak.Utterance], *, sample_rate: int, samples: int, cache: str | Path
) -> Recordings:
    """Recordings of utterances: synthesised now, or read from disk if they were synthesised before.

    A fresh process says the utterances in their order, and so they always sound the same. The name of the
    file in ``cache`` is made of everything that the sound depends on. The file carries a checksum (a damaged
    one is replaced) and appears in one move, so that processes may share the folder.

    Args:
        utterances: the texts to say, and how to say them.
        sample_rate: samples of sound per second.
        samples: length of a recording; a longer sound is cut off.
        cache: folder in which recordings are kept.

    Raises:
        ConfigError: eSpeak NG is not installed, or could not say an utterance.
    """
    try:
        release = version("espeakng-loader")
    except PackageNotFoundError as error:
        raise ConfigError(
            "spoken data need eSpeak NG, which is not installed: pip install 'mmkd[digits]'"
        ) from error
    made_from = json.dumps([_LAYOUT, release, sample_rate, samples, utterances])
    path = Path(cache) / f"speech-{_digest(made_from.encode()).hex()}"
    if (content := _read(path)) is None:
        content = save(_cut(_say_elsewhere(utterances), sample_rate, samples)._asdict())
        _write(path, content)
    return Recordings(**load(content))


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _read(path: Path) -> bytes | None:
    """The content that ``_write`` wrote; None if there is no file or a damaged one."""
    if not path.exists():
        return None
    whole = path.read_bytes()
    return whole[16:] if _digest(whole[16:]) == whole[:16] else None


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as part:
        part.write_bytes(_digest(content) + content)


def _cut(sounds: list[Int16[ndarray, " _"]], sample_rate: int, samples: int) -> Recordings:
    """Sounds without the ends that are 34 dB below the peak, resampled and filled up with zeros."""
    from torchaudio.functional import resample

    trimmed = []
    for sound in sounds:
        loudness = np.abs(sound.astype(np.int32))
        loud = np.flatnonzero(loudness > 0.02 * loudness.max())
        trimmed.append(torch.from_numpy(sound[loud[0] : loud[-1] + 1]))
    length = torch.tensor([len(sound) * sample_rate // espeak.RATE for sound in trimmed]).clamp(max=samples)
    wave = torch.zeros(len(trimmed), samples, dtype=torch.int16)
    for start in range(0, len(trimmed), 256):
        rows = trimmed[start : start + 256]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        sound = resample(padded.float(), espeak.RATE, sample_rate)[:, :samples]
        wave[start : start + len(rows), : sound.shape[1]] = sound.round().clamp(-32768, 32767).short()
    wave[torch.arange(samples) >= length[:, None]] = 0
    return Recordings(wave, length)


def _say_elsewhere(utterances: Sequence[espeak.Utterance]) -> list[Int16[ndarray, " _"]]:
    """The sounds that ``espeak.say`` returns in a fresh process."""
    run = subprocess.run(
        [sys.executable, espeak.__file__],
        input=json.dumps(utterances).encode(),
        capture_output=True,
        check=False,
    )
    if run.returncode != 0:
        reason = run.stderr.decode(errors="replace").strip().splitlines() or [f"status {run.returncode}"]
        raise ConfigError(f"eSpeak NG failed: {reason[-1]}")
    stream = BytesIO(run.stdout)
    length, sound = np.load(stream), np.load(stream)
    return np.split(sound, length.cumsum()[:-1])
