"""What others must know of a peer that they do not hold: said once, on joining."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from mmkd.functional.slices import Shapes
from mmkd.ledger import JOINING
from mmkd.types import ConfigError, Modality, Payload, PeerName


class Facts(NamedTuple):
    """A peer without its data and its student."""

    id: str  # keys its draws, and says where it stands among all
    modality: Modality
    samples: int  # private training samples
    steps_per_epoch: int  # local steps in a pass over them
    samples_per_step: float  # on average over a pass
    start: int  # keys the weights with which it begins
    shapes: Shapes  # of the tensors that may leave it
    statistics: tuple[str, ...]  # which of those are floating-point buffers, and no parameters
    predict: float  # FLOPs of a forward pass, per sample
    train: float  # FLOPs of forward and backward, per sample

    def payload(self, name: PeerName) -> Payload:
        """What the peer of that name sends: JSON, as one row of bytes."""
        text = json.dumps(self._asdict(), separators=(",", ":"))
        return Payload(name, JOINING, 0, {"facts": torch.tensor(list(text.encode()), dtype=torch.uint8)})

    @classmethod
    def of(cls, payload: Payload) -> Facts:
        """The facts that ``payload`` was made of.

        Raises:
            ValueError: they are none.
        """
        try:
            told = json.loads(bytes(payload.tensors["facts"].tolist()))
            read = {n: kind(told[n]) for n, kind in KINDS.items()}
            return cls(**read)
        except Exception as error:
            raise ValueError(f"'{payload.sender}' says no facts: {error}") from error


def _shapes(told: Mapping[str, list[int]]) -> Shapes:
    return {name: torch.Size(shape) for name, shape in told.items()}


KINDS: dict[str, Callable[[Any], Any]] = {
    "id": str,
    "modality": str,
    "samples": int,
    "steps_per_epoch": int,
    "samples_per_step": float,
    "start": int,
    "shapes": _shapes,
    "statistics": tuple,
    "predict": float,
    "train": float,
}
"""How each of them is read."""


def lives_here(name: str, held: Container[PeerName], joined: Container[PeerName], *, hosts: bool) -> bool:
    """Whether a participant is in this process.

    A peer is where it is held; the hub that speaks for a cluster, ``hub/PEER``, is where its first peer is;
    any other hub is where hubs are.

    Args:
        name: of the participant.
        held: peers of this process.
        joined: all peers.
        hosts: whether hubs are here.
    """
    if name in joined:
        return name in held
    first = name.partition("/")[2]
    return first in held if first in joined else hosts


def everybody(parts: Iterable[Mapping[PeerName, Facts]]) -> dict[PeerName, Facts]:
    """Facts of all peers, ordered by id as a cohort orders its own.

    Args:
        parts: what each process says of those that it holds.

    Raises:
        ConfigError: two processes hold a peer of one name, or peers of one id.
    """
    all_: dict[PeerName, Facts] = {}
    for part in parts:
        if twice := sorted(all_.keys() & part.keys()):
            raise ConfigError(f"two processes hold a peer '{twice[0]}'; give their fleets different names")
        all_ |= part
    ids = sorted(facts.id for facts in all_.values())
    if same := [one for one, two in pairwise(ids) if one == two]:
        raise ConfigError(f"two peers share the id '{same[0]}'; give them different ones")
    return dict(sorted(all_.items(), key=lambda item: item[1].id))
