"""Policies of offloading side by side: what devices win by asking others, for how many requests and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.edge.policies import POLICIES, MaxProbability, Requests
from mmkd.edge.trained import Trained
from mmkd.edge.validating import Said, said_of
from mmkd.functional.calibration import calibration_error, temperature
from mmkd.functional.offloading import Curve, offloading_curve
from mmkd.students.base import Classifier
from mmkd.types import NO_LABEL, ConfigError, PeerName

BUDGETS = (0.1, 0.2, 0.5)
"""Shares of requests, or of bytes, for which accuracies are said."""
IDENTITY = 8
"""Bytes of a request about something that the one who is asked perceives itself."""


class Compared(NamedTuple):
    """What was found."""

    devices: list[PeerName]
    remote: list[PeerName]
    alone: float  # accuracy of the devices, mean over all their requests
    asked: float  # of those who are asked about everything
    requests: dict[str, Curve]  # by policy, against the share of requests
    bytes: dict[str, Curve]  # against the share of bytes
    whole: float  # bytes of asking about one request, mean
    error: tuple[float, float]  # calibration error of the devices, without and with their temperatures
    hit: dict[float, tuple[float, float, float]]  # by budget, what becomes of it (see ``_hit``)


def compared(run: Trained, devices: Sequence[PeerName] | None, remote: Sequence[PeerName]) -> Compared:
    """Compare all policies on test samples; whatever is fitted is fitted on validation samples.

    A sample goes to those who are asked if they read its modality; else they see it for themselves, by the
    same id, and the request holds that id alone. Of several answers the mean of probabilities counts.

    Args:
        run: that was trained.
        devices: who ask; all who are not asked, if None.
        remote: who are asked.

    Raises:
        ConfigError: a peer is not there, is no classifier, or nobody has seen what devices ask about.
    """
    modalities = run.cohort.roster[0]
    students = {peer: run.student(peer) for peer in [*remote, *(devices or [])]}
    devices = list(devices) if devices else [peer for peer in modalities if peer not in remote]
    if not devices or set(devices) & set(remote):
        raise ConfigError("a device asks somebody else: name peers to ask, with --to, that are not devices")
    for peer in [*devices, *remote]:
        students.setdefault(peer, run.student(peer))
        if not isinstance(students[peer], Classifier):
            raise ConfigError(f"'{peer}' is no classifier, and policies are for those")
    said = {
        split: {p: said_of(s, run.data, p, split) for p, s in students.items() if isinstance(s, Classifier)}
        for split in ("val", "test")
    }
    degrees = {peer: _degrees(peer, found) for peer, found in said["val"].items()}
    fitted, plain = (
        {split: _requests(said[split], devices, remote, modalities, t) for split in said}
        for t in (degrees, dict.fromkeys(degrees, 1.0))
    )
    by_requests, by_bytes = {}, {}
    for name, make in POLICIES.items():
        policy = make()
        policy.fit(fitted["val"])
        test = fitted["test"]
        one = test._replace(cost=torch.ones_like(test.cost))
        by_requests[name] = offloading_curve(policy.wants(one), test.gain, one.cost)
        by_bytes[name] = offloading_curve(policy.wants(test), test.gain, test.cost)
    test = fitted["test"]
    errors = [_error(said["test"], devices, t) for t in (dict.fromkeys(degrees, 1.0), degrees)]
    return Compared(
        devices,
        list(remote),
        float(test.right.double().mean()),
        float(test.answered.double().mean()),
        by_requests,
        by_bytes,
        float(test.cost.mean()),
        (errors[0], errors[1]),
        {
            budget: (*_hit(fitted, len(devices), budget), _hit(plain, len(devices), budget)[0])
            for budget in BUDGETS
        },
    )


def _degrees(peer: PeerName, said: Said) -> float:
    known = said.y != NO_LABEL
    if not bool(known.any()):
        raise ConfigError(f"peer '{peer}' has no labelled validation samples to calibrate on")
    return float(temperature(said.logits[known][None], said.y[known][None]))


def _requests(
    said: dict[PeerName, Said],
    devices: Sequence[PeerName],
    remote: Sequence[PeerName],
    modalities: dict[PeerName, str],
    degrees: dict[PeerName, float],
) -> Requests:
    """The samples of all devices that all who are asked know, with what each says of them."""
    parts: list[tuple[Tensor, ...]] = []
    for number, device in enumerate(devices):
        own = said[device]
        places = {int(i): place for place, i in enumerate(own.ids)}
        shared = set(places).intersection(*(said[peer].ids.tolist() for peer in remote))
        ids = [i for i in own.ids.tolist() if i in shared and int(own.y[places[i]]) != NO_LABEL]
        if not ids:
            raise ConfigError(f"none of those who are asked has a sample that '{device}' has")
        rows = [places[i] for i in ids]
        answers = torch.stack([_of(said[peer], ids).div(degrees[peer]).softmax(-1) for peer in remote]).mean(
            0
        )
        y, logits = own.y[rows], own.logits[rows] / degrees[device]
        sent = sum(own.nbytes if modalities[p] == modalities[device] else IDENTITY for p in remote)
        back = len(remote) * answers.shape[-1] * answers.element_size()
        cost = torch.full((len(ids),), float(sent + back))
        asks = torch.full((len(ids),), number)
        parts.append((logits, logits.argmax(-1) == y, answers.argmax(-1) == y, cost, asks))
    logits, right, answered, cost, asks = (torch.cat(part) for part in zip(*parts, strict=True))
    return Requests(logits, right, answered, cost, asks.tolist())


def _of(said: Said, ids: Sequence[int]) -> Float[Tensor, "samples classes"]:
    places = {int(i): place for place, i in enumerate(said.ids)}
    return said.logits[[places[i] for i in ids]]


def _error(said: dict[PeerName, Said], devices: Sequence[PeerName], degrees: dict[PeerName, float]) -> float:
    """Mean calibration error of the devices."""
    found = []
    for peer in devices:
        known = said[peer].y != NO_LABEL
        chances = (said[peer].logits[known] / degrees[peer]).softmax(-1)
        found.append(float(calibration_error(chances[None], said[peer].y[known][None])))
    return sum(found) / len(found)


def _hit(requests: dict[str, Requests], devices: int, budget: float) -> tuple[float, float]:
    """What becomes of a share of requests, where one threshold of confidence is for all devices.

    The threshold is that of the validation samples of all. Returns the share of test samples below it, and by
    how much the devices' own shares are away from the budget, on average.
    """
    wants = {split: MaxProbability().wants(r) for split, r in requests.items()}
    asked = (wants["test"] > wants["val"].quantile(1 - budget)).double()
    whose = torch.tensor(requests["test"].device)
    shares = [float(asked[whose == device].mean()) for device in range(devices)]
    return float(asked.mean()), sum(abs(share - budget) for share in shares) / devices
