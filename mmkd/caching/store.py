"""Where entries of a cache are kept: the interface, and memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

Tensors = Mapping[str, Shaped[Tensor, "speakers samples ..."]]
"""Statements of speakers about samples, as they are sent."""


class Store(ABC):
    """Keeps statements by speaker and sample, and gives each a mark, by which it is found again.

    What a store has lost is not found, which is a miss; what it finds is what was put.
    """

    @abstractmethod
    def put(
        self,
        speakers: Sequence[str],
        ids: Int[Tensor, " samples"],
        tensors: Tensors,
        said: Bool[Tensor, "speakers samples"],
    ) -> Int[Tensor, "speakers samples"] | None:
        """Keep what was said of some samples; returns marks, which are not negative, or None if that failed.

        Args:
            speakers: of the rows of ``tensors``.
            ids: of their samples.
            tensors: statements.
            said: which of them are kept, in place of what there was.
        """

    @abstractmethod
    def get(
        self,
        speakers: Sequence[str],
        ids: Int[Tensor, " samples"],
        like: Tensors,
        marks: Int[Tensor, "speakers samples"],
    ) -> tuple[dict[str, Tensor], Bool[Tensor, "speakers samples"]]:
        """Statements, and which are found; zeros where they are not.

        Args:
            speakers: of the rows.
            ids: of the samples.
            like: tensors of the same names, shapes and types.
            marks: that each was given; negative, where none is wanted.
        """

    @abstractmethod
    def drop(self, speakers: Sequence[str], gone: Bool[Tensor, "speakers ids"]) -> None:
        """Let entries go, given by the ids of their samples."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: nothing, where it lasts by itself."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # one that lasts has nothing to load
        """Take what a checkpoint has kept."""


class Memory(Store):
    """Keeps entries in memory, and in checkpoints."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Tensor]] = {}  # by speaker and name: [ids, ...]

    def put(
        self,
        speakers: Sequence[str],
        ids: Int[Tensor, " samples"],
        tensors: Tensors,
        said: Bool[Tensor, "speakers samples"],
    ) -> Int[Tensor, "speakers samples"] | None:
        """Keep them; always possible, and all marks are alike."""
        for row, speaker in enumerate(speakers):
            chosen = said[row].nonzero().squeeze(1)
            own = self._entries.setdefault(speaker, {})
            for name, tensor in tensors.items():
                room = _room(own.get(name), tensor[row], int(ids.max()) + 1 if len(ids) else 0)
                room[ids[chosen].to(room.device)] = tensor[row, chosen.to(tensor.device)].detach()
                own[name] = room
        return torch.zeros(said.shape, dtype=torch.long)

    def get(
        self,
        speakers: Sequence[str],
        ids: Int[Tensor, " samples"],
        like: Tensors,
        marks: Int[Tensor, "speakers samples"],
    ) -> tuple[dict[str, Tensor], Bool[Tensor, "speakers samples"]]:
        """All that are wanted, unless a speaker has said nothing of this kind."""
        wanted = marks >= 0
        found = {name: torch.zeros_like(tensor) for name, tensor in like.items()}
        for row, speaker in enumerate(speakers):
            own = self._entries.get(speaker, {})
            if not bool(wanted[row].any()):
                continue
            if any(name not in own or own[name].shape[1:] != t.shape[2:] for name, t in like.items()):
                wanted[row] = False
                continue
            for name, tensor in found.items():
                at = wanted[row].nonzero().squeeze(1)
                tensor[row, at.to(tensor.device)] = own[name][ids[at].to(own[name].device)].to(tensor.device)
        return found, wanted

    def drop(self, speakers: Sequence[str], gone: Bool[Tensor, "speakers ids"]) -> None:
        """Nothing is freed: nobody asks for them any more."""

    def state_dict(self) -> dict[str, Any]:
        """All entries."""
        return {s: {name: t.clone() for name, t in own.items()} for s, own in self._entries.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all entries."""
        self._entries = {speaker: dict(own) for speaker, own in state.items()}


def _room(kept: Tensor | None, like: Shaped[Tensor, "samples ..."], size: int) -> Tensor:
    """Room for statements of ``size`` samples, with those that are kept unless they are of another form."""
    if kept is None or kept.shape[1:] != like.shape[1:] or kept.dtype != like.dtype:
        return like.new_zeros(size, *like.shape[1:])
    if len(kept) >= size:
        return kept
    return torch.cat([kept, kept.new_zeros(size - len(kept), *kept.shape[1:])])
