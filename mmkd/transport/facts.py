"""Facts of a peer, which other processes must know and which it sends once, on joining."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from mmkd.encoding.messages import DIMENSIONS
from mmkd.functional.slices import Shapes
from mmkd.ledger import JOINING
from mmkd.types import ConfigError, Modality, Payload, PeerName


class Facts(NamedTuple):
    """What other processes know of a peer, whose data and student they do not have."""

    id: str  # keys its random streams, and gives its position among all peers
    modality: Modality
    samples: int  # private training samples
    steps_per_epoch: int  # local steps in a pass over them
    samples_per_step: float  # on average over a pass
    start: int  # key of the random stream of its first weights
    shapes: Shapes  # of the tensors that may leave it
    statistics: tuple[str, ...]  # which of those are floating-point buffers, and no parameters
    predict: float  # FLOPs of a forward pass, per sample
    train: float  # FLOPs of forward and backward, per sample

    def payload(self, name: PeerName) -> Payload:
        """The message of the peer of that name: JSON, as one tensor of bytes."""
        text = json.dumps(self._asdict(), separators=(",", ":"))
        return Payload(name, JOINING, 0, {"facts": torch.tensor(list(text.encode()), dtype=torch.uint8)})

    @classmethod
    def of(cls, payload: Payload) -> Facts:
        """Facts from a message; nothing but what ``payload`` writes is read.

        Raises:
            ValueError: the message holds no facts.
        """
        try:
            sent = json.loads(bytes(payload.tensors["facts"].tolist()))
            if not isinstance(sent, dict) or sent.keys() != READERS.keys():
                raise ValueError("other fields")
            found = cls(**{name: read(sent[name]) for name, read in READERS.items()})
            if not found.shapes.keys() >= {*found.statistics}:
                raise ValueError("statistics that it does not have")
            return found
        except Exception as error:
            raise ValueError(f"'{payload.sender}' says no facts: {error}") from error


def _text(sent: Any) -> str:
    if not isinstance(sent, str) or not sent:
        raise ValueError(f"{str(sent)[:40]!r} is no name")
    return sent


def _whole(sent: Any) -> int:
    if type(sent) is not int or not 0 <= sent < 2**64:
        raise ValueError(f"{str(sent)[:40]!r} is no whole number")
    return sent


def _number(sent: Any) -> float:
    if type(sent) not in (int, float) or not 0 <= sent < math.inf:
        raise ValueError(f"{str(sent)[:40]!r} is no number of operations or samples")
    return float(sent)


def _names(sent: Any) -> tuple[str, ...]:
    return tuple(_text(name) for name in sent)


def _shapes(sent: Any) -> Shapes:
    found = {_text(name): torch.Size([_whole(size) for size in shape]) for name, shape in sent.items()}
    if any(len(shape) > DIMENSIONS or math.prod(shape) > LARGEST for shape in found.values()):
        raise ValueError("a tensor that no message may hold")
    return found


LARGEST = 2**40
"""The most numbers that a tensor of a peer may have."""
READERS: dict[str, Callable[[Any], Any]] = {
    "id": _text,
    "modality": _text,
    "samples": _whole,
    "steps_per_epoch": _whole,
    "samples_per_step": _number,
    "start": _whole,
    "shapes": _shapes,
    "statistics": _names,
    "predict": _number,
    "train": _number,
}
"""How each field is read from JSON."""


def lives_here(name: str, held: Container[PeerName], joined: Container[PeerName], *, hosts: bool) -> bool:
    """Whether a participant is in this process.

    A peer is in the process that holds it. The hub that speaks for a cluster, ``hub/PEER``, is in the process
    of the cluster's first peer; any other hub is in the one process that has hubs.

    Args:
        name: of the participant.
        held: peers of this process.
        joined: all peers.
        hosts: whether hubs are in this process.
    """
    if name in joined:
        return name in held
    first = name.partition("/")[2]
    return first in held if first in joined else hosts


def everybody(parts: Iterable[Mapping[PeerName, Facts]]) -> dict[PeerName, Facts]:
    """Facts of all peers, in canonical order, which is that of their ids.

    Args:
        parts: facts of the peers of each process.

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
