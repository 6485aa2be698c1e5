"""Names, batches, predictions and payloads: the words that every other module shares. No logic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

PeerName: TypeAlias = str
"""The name of a peer: its fleet and its number there, such as ``cameras/0``."""
Modality: TypeAlias = str
"""One name without a plus, or several joined by one ("image+text") for a peer that reads all of them."""
Views: TypeAlias = Any
"""What a student reads: one tensor ``[batch, ...]``, or a dictionary of them.

A peer of several modalities reads ``{modality: view}``. Views may be missing: beside a view,
``SHOWN + modality`` may hold a ``[batch]`` bool tensor that says which samples have it, and anything
may stand where it is missing. Without that key all samples have the view; without the view none has.
All of it stacks, collates and goes through ``vmap`` like any other tensor.
"""
SHOWN = "shown/"
"""What a modality's name is prefixed with to name the samples that have its view."""
NO_LABEL = -100
"""The class of a sample that has no label, as torch's ``ignore_index``: a classifier's loss, metrics and
label counts leave the sample out. What others teach of it counts."""


class ConfigError(ValueError):
    """The user asked for something that has no meaning; the message says what, and what to do."""


class DivergedError(RuntimeError):
    """A peer's loss, its weights or what it predicts are no longer finite; the message names the peer."""


class Target(NamedTuple):
    """What a listener makes of a statement that it heard: what is to be learned of each sample.

    Of a statement that are logits ``values`` are probabilities ``[..., samples, classes]``; of detections
    ``[..., samples, slots * 6]``: corners, weight and class of each box, or
    ``[..., samples, places * (classes + 4)]``: log-odds and corners of each place.
    """

    values: Tensor  # [..., samples, width]
    weight: Tensor  # [..., samples]: how much a sample counts; 0 where nobody spoke
    probabilities: bool = False  # whether rows are class probabilities, which may be sent as logits


class Batch(NamedTuple):
    """Samples of one peer: its private ones, or public ones that it learns from others.

    ``key`` names the random stream of the step that reads this batch (dropout and the like). It
    travels with the data, so a student draws the same numbers alone and inside a cohort.
    """

    x: Views  # [batch, ...]
    y: (
        Tensor | None
    )  # [batch] classes; of detectors [batch, slots, 5]: corners in pixels, class; or other targets; or none
    ids: Tensor  # [batch] sample ids
    key: int
    target: Target | None = None  # what others teach of these samples, beside labels or instead of them
    keep: Tensor | None = None  # []: weight of the labels' loss beside a target's, which has the rest
    labelled: Tensor | None = None  # [batch] bool: samples whose class is not NO_LABEL; None, if all


class Public(NamedTuple):
    """Public samples as every modality sees them; unlabelled on purpose."""

    ids: Tensor  # [samples] positions in the public set
    views: dict[Modality, Views]  # each [samples, ...]
    shown: dict[Modality, Tensor]  # each [samples] bool: whether the modality shows that sample


class Batches(NamedTuple):
    """Batches of equal shape of several peers: a ``Batch`` with a leading peer axis."""

    peers: list[PeerName]
    x: Views  # [peers, batch, ...]
    y: Tensor | None  # [peers, batch, ...]
    ids: Tensor  # [peers, batch]
    keys: list[int]  # of each peer
    target: Target | None = None  # with a leading peer axis
    keep: Tensor | None = None  # [peers]
    labelled: Tensor | None = None  # [peers, batch]

    @property
    def size(self) -> int:
        """Samples of each peer."""
        return self.ids.shape[1]


class Step(NamedTuple):
    """One tick of a cohort: at most one local step of every peer."""

    tick: int
    private: list[Batches]  # each of peers of one fleet; a peer that sits out is absent
    public: Public | None


class Block:
    """What Lightning sees as one batch: the local steps up to (at most) the end of a round.

    No tuple: Lightning walks through those over and over, and a step of small students is short.
    """

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps

    def to(self, device: torch.device, non_blocking: bool = False) -> Block:
        """The same on another device."""
        return Block(tree_map_only(Tensor, lambda t: t.to(device, non_blocking=non_blocking), self.steps))


class Evaluation(NamedTuple):
    """Labelled samples that are read by every peer named."""

    peers: list[PeerName]
    x: Views  # [batch, ...]
    y: Tensor  # [batch, ...]


class Classes(NamedTuple):
    """What a classifier predicts, and can teach with. Groups add a leading peer axis."""

    logits: Tensor  # [batch, classes], main head
    auxiliary: Tensor  # [heads, batch, classes], auxiliary heads; heads may be 0
    embedding: Tensor  # [batch, dim]


class Detections(NamedTuple):
    """What a detector predicts, and can teach with. Groups add a leading peer axis."""

    boxes: Tensor  # [batch, slots, 6]: corners in pixels, score, class; the surest first
    maps: Tensor  # [batch, places, classes + 4]: log-odds of each class, corners; width 0 if it has none


Predictions: TypeAlias = Classes | Detections
"""What a student predicts, of one of the kinds that there are."""


class Payload(NamedTuple):
    """A named set of tensors that one participant sends."""

    sender: str
    kind: str  # "logits", "weights", ...
    round: int
    tensors: Mapping[str, Tensor]
    logits: tuple[str, ...] = ()  # names of the statements of which only the softmax matters

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data, framing excluded."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())
