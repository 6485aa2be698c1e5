"""Requests of devices: samples, what they and those who are asked say of them, and what asking costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.cost.footprint import footprint
from mmkd.data.base import PeerData
from mmkd.edge.links import Link
from mmkd.edge.policies import Requests
from mmkd.edge.validating import Said, said_of, sample_of
from mmkd.functional.calibration import temperature
from mmkd.students.base import Classifier
from mmkd.types import NO_LABEL, ConfigError, PeerName

IDENTITY = 8
"""Bytes of a request about something that the one who is asked perceives itself."""
UNITS = ("requests", "bytes", "seconds")
"""What asking costs: one each; bytes both ways; and the time of the link and of who answers."""


class Peers(NamedTuple):
    """Who asks and who answers."""

    data: PeerData
    students: Mapping[PeerName, Classifier]
    modalities: Mapping[PeerName, str]
    devices: Sequence[PeerName]
    remote: Sequence[PeerName]
    links: Mapping[PeerName, Link]  # of each device
    took: Mapping[PeerName, float]  # seconds of a prediction of each


def measured(students: Mapping[PeerName, Classifier], data: PeerData) -> dict[PeerName, float]:
    """Seconds in which each peer says what one of its samples is, on one core of this machine."""
    return {
        peer: footprint(student, sample_of(data, peer)).milliseconds / 1000
        for peer, student in students.items()
    }


def said_by(peers: Peers, split: str) -> dict[tuple[PeerName, PeerName], Said]:
    """What is said of the samples of a split, by who says it and whose samples they are.

    Each peer is asked about its own, and those who are asked about those of devices whose modality they read.

    Raises:
        ConfigError: a peer has no samples in that split.
    """
    pairs = {(peer, peer) for peer in peers.students}
    pairs |= {(r, d) for d in peers.devices for r in peers.remote if _reads(peers, r, d)}
    said = {}
    for by, whose in sorted(pairs):
        said[by, whose] = found = said_of(peers.students[by], peers.data, whose, split)
        if len(found.y) == 0:
            raise ConfigError(f"peer '{whose}' has no {split} samples to ask about")
    return said


def degrees_of(peer: PeerName, said: Said) -> float:
    """The temperature of a peer by its validation samples.

    Raises:
        ConfigError: none of them has a label.
    """
    known = said.y != NO_LABEL
    if not bool(known.any()):
        raise ConfigError(f"peer '{peer}' has no labelled validation samples to calibrate on")
    return float(temperature(said.logits[known][None], said.y[known][None]))


def requests(
    peers: Peers, said: Mapping[tuple[PeerName, PeerName], Said], degrees: Mapping[PeerName, float]
) -> dict[str, Requests]:
    """The samples of all devices that those who are asked can answer about, at their costs by each unit.

    A sample goes to those who read its modality. Another perceives it by itself, under the same id, and is
    sent the id alone. Of several answers the mean of probabilities counts. Several are asked one after the
    other over the device's one link, and think at the same time.

    Args:
        peers: who asks and who answers.
        said: what is said of the samples of a split, as ``said_by`` gives it.
        degrees: temperature of each peer.

    Raises:
        ConfigError: nobody has seen what a device asks about, or none of it has a label.
    """
    parts: list[tuple[Tensor, ...]] = []
    for number, device in enumerate(peers.devices):
        own = said[device, device]
        answers = {r: said[r, device if _reads(peers, r, device) else r] for r in peers.remote}
        shared = set(own.ids.tolist()).intersection(*(found.ids.tolist() for found in answers.values()))
        kept = [i in shared and y != NO_LABEL for i, y in zip(own.ids.tolist(), own.y.tolist(), strict=True)]
        rows = torch.tensor(kept).nonzero()[:, 0]
        if len(rows) == 0:
            raise ConfigError(f"those who are asked have no sample with a label that '{device}' has")
        ids = own.ids[rows].tolist()
        chances = torch.stack([_of(a, ids).div(degrees[r]).softmax(-1) for r, a in answers.items()])
        logits, y = own.logits[rows].double() / degrees[device], own.y[rows]
        sent = sum(own.nbytes if _reads(peers, r, device) else IDENTITY for r in peers.remote)
        back = len(peers.remote) * chances.shape[-1] * chances.element_size()
        took = peers.links[device].seconds(sent, back) + max(peers.took[r] for r in peers.remote)
        costs = torch.tensor([1.0, sent + back, took], dtype=torch.float64).expand(len(ids), -1)
        right, answered = logits.argmax(-1) == y, chances.mean(0).argmax(-1) == y
        parts.append((logits, right, answered, costs, torch.full((len(ids),), number)))
    logits, right, answered, costs, asks = (torch.cat(part) for part in zip(*parts, strict=True))
    whose = asks.tolist()
    return {
        unit: Requests(logits, right, answered, cost, whose)
        for unit, cost in zip(UNITS, costs.unbind(1), strict=True)
    }


def _reads(peers: Peers, remote: PeerName, device: PeerName) -> bool:
    return peers.modalities[remote] == peers.modalities[device]


def _of(said: Said, ids: Sequence[int]) -> Float[Tensor, "samples classes"]:
    places = {int(i): place for place, i in enumerate(said.ids)}
    return said.logits[[places[i] for i in ids]]
