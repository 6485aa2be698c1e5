"""The public set as a whole: read once, and read by students in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mmkd.cohort.peers import TOGETHER, Peers
from mmkd.data.base import PeerData
from mmkd.data.samples import view_of
from mmkd.types import ConfigError, Predictions, Public

PIECE = 512
"""How many samples go through one forward pass."""
SAMPLES_AXIS = {"auxiliary": 2}
"""Axis of the samples in predictions with a leading peer axis; 1 for predictions that are not named."""


def see_public(peers: Peers, data: PeerData) -> Public:
    """All public samples, moved to the device of the students.

    Raises:
        ConfigError: there are none, or none that the peers of some modality can see.
    """
    reader = data.public_reader("train")
    public = reader.batch(torch.arange(len(reader)))
    for modality in sorted(set(peers.modalities.values())):
        if not bool(view_of(public, modality)[1].any()):
            raise ConfigError(
                f"no public sample shows '{modality}', so its peers can neither teach nor learn;"
                " add public views or remove the fleet"
            )
    return peers.to_device(public)


def some(public: Public, where: slice | Tensor) -> Public:
    """The public samples at the positions ``where``."""
    views: dict[str, Any] = {m: tree_map(lambda t: t[where], x) for m, x in public.views.items()}
    return Public(public.ids[where], views, {m: s[where] for m, s in public.shown.items()})


def evaluate(
    peers: Peers, rows: Mapping[int, list[int]], public: Public, stream: int
) -> Iterator[tuple[int, list[int], Predictions]]:
    """Predictions of rows of groups in evaluation mode, some rows at a time.

    A generator, so that the caller keeps only what it needs of them: the embeddings of ten thousand peers
    would fill the memory.
    """
    for number, chosen in rows.items():
        for start in range(0, len(chosen), TOGETHER):
            part = chosen[start : start + TOGETHER]
            predictions = _evaluate(peers, number, part, public, stream)
            if predictions is not None:
                yield number, part, predictions


@torch.no_grad()
def _evaluate(peers: Peers, number: int, rows: list[int], public: Public, stream: int) -> Predictions | None:
    """Predictions on the public set, in pieces of bounded size; None, if the rows see none of it."""
    pieces = [some(public, slice(i, i + PIECE)) for i in range(0, len(public.ids), PIECE)]
    with peers.evaluating():
        parts = [peers.predict_public(number, rows, piece, stream) for piece in pieces]
    example = next((part for part in parts if part is not None), None)
    if example is None or len(parts) == 1:
        return example
    whole = [
        _blank(example, len(piece.ids)) if part is None else part
        for part, piece in zip(parts, pieces, strict=True)
    ]
    kind: Any = type(example)
    joined: Predictions = kind(
        *(
            torch.cat([getattr(part, name) for part in whole], SAMPLES_AXIS.get(name, 1))
            for name in example._fields
        )
    )
    return joined


def _blank(like: Predictions, size: int) -> Predictions:
    """Zeros for samples that a peer does not see, which nobody reads."""
    kind: Any = type(like)
    blank: Predictions = kind(
        *(_resized(getattr(like, n), SAMPLES_AXIS.get(n, 1), size) for n in like._fields)
    )
    return blank


def _resized(tensor: Tensor, axis: int, size: int) -> Tensor:
    shape = list(tensor.shape)
    shape[axis] = size
    return tensor.new_zeros(shape)
