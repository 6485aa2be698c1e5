"""What validation samples say of a student: how sure it may be of itself, and how often it is right."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from mmkd.data.base import PeerData
from mmkd.data.reader import pieces
from mmkd.functional.calibration import calibration_error, temperature
from mmkd.students.base import Classifier, Student
from mmkd.types import NO_LABEL, Batch, ConfigError, PeerName, Views

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


def logits_of(
    student: Classifier, data: PeerData, peer: PeerName, split: str
) -> tuple[Float[Tensor, "samples classes"], Int[Tensor, " samples"]]:
    """Logits of a peer's labelled samples, and their labels; of soft labels the likeliest class."""
    said = said_of(student, data, peer, split)
    return said.logits[said.y != NO_LABEL], said.y[said.y != NO_LABEL]


def read(data: PeerData, peer: PeerName, split: str, places: Int[Tensor, " samples"]) -> Batch:
    """Samples of a peer as its student reads them on a device: in single precision, as it is there."""
    batch = data.reader(peer, split).batch(places, 0)
    x: Views = tree_map_only(Tensor, lambda t: t.float() if t.is_floating_point() else t, batch.x)
    return batch._replace(x=x)


def sample_of(data: PeerData, peer: PeerName) -> Views:
    """One of a peer's validation samples, as its student reads it.

    Raises:
        ConfigError: it has none.
    """
    if len(data.reader(peer, "val")) == 0:
        raise ConfigError(f"peer '{peer}' has no validation samples")
    return read(data, peer, "val", torch.arange(1)).x


class Said(NamedTuple):
    """What a student says of a peer's samples."""

    logits: Float[Tensor, "samples classes"]
    y: Int[Tensor, " samples"]  # the likeliest class, of soft labels; ``NO_LABEL`` where there is none
    ids: Int[Tensor, " samples"]
    nbytes: int  # of one sample


@torch.no_grad()
def said_of(student: Classifier, data: PeerData, peer: PeerName, split: str) -> Said:
    """What a student says of all samples of a split.

    Raises:
        ConfigError: its logits are not finite.
    """
    parts, nbytes = [], 0
    for places in pieces(len(data.reader(peer, split)), PIECE):
        batch = read(data, peer, split, places)
        assert batch.y is not None
        y = batch.y
        hard = y if y.dim() == 1 else y.argmax(1).masked_fill(y.isnan().any(1), NO_LABEL)
        parts.append((student(batch.x), hard, batch.ids))
        nbytes = sum(t[0].numel() * t.element_size() for t in tree_leaves(batch.x))
    nothing = torch.empty(0, dtype=torch.long)
    logits, labels, ids = (
        map(torch.cat, zip(*parts, strict=True))
        if parts
        else (torch.empty(0, student.num_classes), nothing, nothing)
    )
    if not bool(logits.amax(-1).isfinite().all()):  # a class may be ruled out
        raise ConfigError(
            f"the student of '{peer}' says of {split} samples what is no number: it has diverged"
        )
    return Said(logits, labels, ids, nbytes)
