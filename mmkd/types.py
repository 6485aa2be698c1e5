"""Names, batches, predictions and payloads: the types that every other module shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mmkd.errors import ConfigError as ConfigError
from mmkd.errors import DivergedError as DivergedError
from mmkd.errors import SilentError as SilentError

PeerName: TypeAlias = str
"""The name of a peer: its fleet and its number there, such as ``cameras/0``."""
Modality: TypeAlias = str
"""One name without a plus, or several joined by one ("image+text") for a peer that reads all of them."""
Views: TypeAlias = Any
"""What a student reads: one tensor ``[batch, ...]``, or a dictionary of them.

A peer of several modalities reads ``{modality: view}``. Views may be missing: beside a view,
``SHOWN + modality`` may hold a ``[batch]`` bool tensor that says which samples have it, and the
values of a missing view have no effect. Without that key all samples have the view; without the view none
has. Sequences of unequal length are ``Padded``, which a data set need not know: it hands out samples as they
are. All of it stacks, collates and goes through ``vmap`` like any other tensor.
"""
SHOWN = "shown/"
"""Prefix of a modality's name: that key of ``Views`` says which samples have a view of the modality."""
NO_LABEL = -100
"""The class of a sample that has no label, as torch's ``ignore_index``.

Losses, metrics and counts of labels leave the sample out. What others teach of it counts.
"""


class Padded(NamedTuple):
    """Sequences of unequal length in one tensor; a student makes the same of them whatever their padding."""

    values: Tensor  # [batch, length], with zeros behind the end of a sequence
    lengths: Tensor  # [batch]: how much of it is there


class Target(NamedTuple):
    """What a listener makes of a statement that it heard: what is to be learned of each sample.

    For logits ``values`` are probabilities ``[..., samples, classes]``. For detections they are corners,
    weight and class of each box, ``[..., samples, slots * 6]``, or log-odds and corners of each place of the
    feature maps, ``[..., samples, places * (classes + 4)]``.
    """

    values: Float[Tensor, "*peers samples width"]
    weight: Float[Tensor, "*peers samples"]  # how much a sample counts; 0 where nobody spoke
    probabilities: bool = False  # whether rows are class probabilities, which may be sent as logits


class Batch(NamedTuple):
    """Samples of one peer: its private ones, or public ones that it learns from others.

    ``key`` names the random stream of the step that reads this batch (dropout and the like). It
    travels with the data, so a student draws the same numbers alone and inside a cohort.
    """

    x: Views  # [batch, ...]
    y: Shaped[Tensor, "batch ..."] | None  # classes; [batch, slots, 5] boxes; or other targets; or none
    ids: Int[Tensor, " batch"]  # of the samples
    key: int
    target: Target | None = None  # what others teach of these samples, beside labels or instead of them
    keep: Float[Tensor, ""] | None = None  # weight of the labels' loss beside a target's, which has the rest
    labelled: Bool[Tensor, " batch"] | None = None  # samples that have a label; None, if all have


class Public(NamedTuple):
    """Public samples as every modality sees them; unlabelled on purpose."""

    ids: Int[Tensor, " samples"]  # positions in the public set
    views: dict[Modality, Views]  # each [samples, ...]
    shown: dict[Modality, Bool[Tensor, " samples"]]  # whether the modality shows that sample


class Batches(NamedTuple):
    """Batches of equal shape of several peers: a ``Batch`` with a leading peer axis."""

    peers: list[PeerName]
    x: Views  # [peers, batch, ...]
    y: Shaped[Tensor, "peers batch ..."] | None
    ids: Int[Tensor, "peers batch"]
    keys: list[int]  # of each peer
    target: Target | None = None  # with a leading peer axis
    keep: Float[Tensor, " peers"] | None = None
    labelled: Bool[Tensor, "peers batch"] | None = None

    @property
    def size(self) -> int:
        """Samples of each peer."""
        return self.ids.shape[1]


class Step(NamedTuple):
    """One tick of a cohort: at most one local step of every peer."""

    tick: int
    private: list[Batches]  # each of peers of one fleet; a peer that sits out is absent
    public: Public | None
    learned: Public | None = None  # the same samples as students learn from them, if they are changed


class Block:
    """What Lightning sees as one batch: the local steps up to (at most) the end of a round.

    It is no tuple, because Lightning searches tuples for tensors again and again, which takes longer than a
    step of small students.
    """

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps

    def to(self, device: torch.device, non_blocking: bool = False) -> Block:
        """A copy of the block on another device, as Lightning asks for it."""
        return Block(tree_map_only(Tensor, lambda t: t.to(device, non_blocking=non_blocking), self.steps))


class Evaluation(NamedTuple):
    """Labelled samples that are read by every peer named."""

    peers: list[PeerName]
    x: Views  # [batch, ...]
    y: Shaped[Tensor, "batch ..."]
    ids: Int[Tensor, " batch"] | None = None


class Classes(NamedTuple):
    """What a classifier predicts, and can teach with. Groups add a leading peer axis."""

    logits: Float[Tensor, "*peers batch classes"]  # of the main head
    auxiliary: Float[Tensor, "*peers heads batch classes"]  # of auxiliary heads, of which there may be none
    embedding: Float[Tensor, "*peers batch dim"]


class Detections(NamedTuple):
    """What a detector predicts, and can teach with. Groups add a leading peer axis."""

    boxes: Float[Tensor, "*peers batch slots 6"]  # corners in pixels, score, class; the surest first
    maps: Float[
        Tensor, "*peers batch places width"
    ]  # log-odds of classes, corners; width 0 if there are none


class Tags(NamedTuple):
    """What a tagger predicts, and can teach with: which tags fit a sample. Groups add a leading peer axis."""

    logits: Float[Tensor, "*peers batch tags"]  # log-odds that a tag fits


class Values(NamedTuple):
    """What a regressor predicts, and can teach with. Groups add a leading peer axis."""

    values: Float[Tensor, "*peers batch values"]


Predictions: TypeAlias = Classes | Detections | Tags | Values
"""What a student predicts: classes, detections, tags or values."""


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
