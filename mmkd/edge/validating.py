"""What validation samples say of a student: how sure it may be of itself, and how often it is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.data.base import PeerData
from mmkd.data.reader import pieces
from mmkd.functional.calibration import calibration_error, temperature
from mmkd.students.base import Classifier, Student
from mmkd.types import NO_LABEL, ConfigError, PeerName, Views

PIECE = 256
"""Samples that go through a student at once."""


class Validated(NamedTuple):
    """What was found."""

    temperature: float
    threshold: float  # of the greatest probability, below which a device is unsure
    said: dict[str, str]  # in words, for the model card


def validated(student: Student, data: PeerData, peer: PeerName, ask: float) -> Validated:
    """Temperature and threshold by the peer's validation samples, and by test samples how good they are.

    Args:
        student: of the peer.
        data: that hold its samples.
        peer: whose they are.
        ask: share of validation samples of which the device is to be unsure.

    Raises:
        ConfigError: the peer has no labelled validation samples, or shares of requests mean nothing to it.
    """
    if not isinstance(student, Classifier):
        if ask:
            raise ConfigError(f"--ask is for classifiers, and '{peer}' has a {type(student).__name__}")
        return Validated(1.0, 0.0, {})
    logits, y = logits_of(student, data, peer, "val")
    if len(y) == 0:
        raise ConfigError(f"peer '{peer}' has no labelled validation samples to calibrate on")
    degrees = float(temperature(logits[None], y[None]))
    threshold = float((logits / degrees).softmax(-1).amax(-1).quantile(ask)) if ask else 0.0
    logits, y = logits_of(student, data, peer, "test")
    said = {}
    if len(y):
        right = (logits.argmax(-1) == y).double().mean()
        before, after = (
            float(calibration_error((logits / t).softmax(-1)[None], y[None])) for t in (1.0, degrees)
        )
        said["right about its test samples"] = f"{float(right):.1%} of {len(y)}"
        said["calibration error on them"] = f"{after:.3f} ({before:.3f} without the temperature)"
    return Validated(degrees, threshold, said)


@torch.no_grad()
def logits_of(
    student: Classifier, data: PeerData, peer: PeerName, split: str
) -> tuple[Float[Tensor, "samples classes"], Int[Tensor, " samples"]]:
    """Logits of a peer's labelled samples, and their labels; of soft labels the likeliest class."""
    found, labels = [torch.empty(0, student.num_classes)], [torch.empty(0, dtype=torch.long)]
    for x, y in _read(data, peer, split):
        hard = y if y.dim() == 1 else y.argmax(1).masked_fill(y.isnan().any(1), NO_LABEL)
        found.append(student(x)[hard != NO_LABEL])
        labels.append(hard[hard != NO_LABEL])
    return torch.cat(found), torch.cat(labels)


def _read(data: PeerData, peer: PeerName, split: str) -> Iterator[tuple[Views, Tensor]]:
    reader = data.reader(peer, split)
    for places in pieces(len(reader), PIECE):
        batch = reader.batch(places, 0)
        assert batch.y is not None
        yield batch.x, batch.y
