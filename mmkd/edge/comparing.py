"""Policies of offloading side by side: what devices win by asking, and what they spend on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmkd.edge.budgets import Budget, Kept, kept
from mmkd.edge.links import links
from mmkd.edge.policies import POLICIES
from mmkd.edge.requests import UNITS, Peers, degrees_of, measured, requests, said_by
from mmkd.edge.trained import Trained
from mmkd.edge.validating import Said
from mmkd.functional.calibration import calibration_error
from mmkd.functional.offloading import Curve, offloading_curve
from mmkd.students.base import Classifier
from mmkd.types import NO_LABEL, ConfigError, PeerName


class Compared(NamedTuple):
    """What was found."""

    devices: list[PeerName]
    remote: list[PeerName]
    alone: float  # accuracy of the devices, mean over all their requests
    asked: float  # of those who are asked about everything
    curves: dict[str, dict[str, Curve]]  # by unit of cost and policy, against the share of that cost
    whole: dict[str, float]  # cost of asking about one request by each unit, mean
    seconds: float  # in which a device answers alone, mean over requests
    error: tuple[float, float]  # calibration error of the devices, without and with their temperatures
    kept: list[Kept]  # what becomes of budgets


def compared(
    run: Trained,
    devices: Sequence[PeerName] | None,
    remote: Sequence[PeerName],
    *,
    over: Sequence[str] = ("wifi",),
    budgets: Sequence[Budget] = (),
) -> Compared:
    """Compare all policies on test samples; whatever is fitted is fitted on validation samples.

    Args:
        run: that was trained.
        devices: who ask; all who are not asked, if None.
        remote: who are asked.
        over: links, as ``mmkd.edge.links.links`` reads them.
        budgets: of which thresholds are made.

    Raises:
        ConfigError: a peer is not there, is no classifier, has no samples or no link, or nobody has seen what
            devices ask about.
    """
    modalities = run.cohort.roster[0]
    devices = [*dict.fromkeys(devices or (peer for peer in modalities if peer not in remote))]
    remote = [*dict.fromkeys(remote)]
    students = {peer: _classifier(run, peer) for peer in [*remote, *devices]}
    if not devices or set(devices) & set(remote):
        raise ConfigError("a device asks somebody else: name peers to ask, with --to, that are not devices")
    over_links, took = links(over, devices), measured(students, run.data)
    peers = Peers(run.data, students, modalities, devices, remote, over_links, took)
    said = {split: said_by(peers, split) for split in ("val", "test")}
    degrees = {peer: degrees_of(peer, said["val"][peer, peer]) for peer in students}
    calibrated, plain = (
        {split: requests(peers, found, t) for split, found in said.items()}
        for t in (degrees, dict.fromkeys(degrees, 1.0))
    )
    curves: dict[str, dict[str, Curve]] = {unit: {} for unit in UNITS}
    for name, make in POLICIES.items():
        policy = make()
        policy.fit(calibrated["val"]["requests"])
        for unit, test in calibrated["test"].items():
            curves[unit][name] = offloading_curve(policy.wants(test), test.gain, test.cost)
    test = calibrated["test"]["requests"]
    errors = [_error(said["test"], devices, t) for t in (dict.fromkeys(degrees, 1.0), degrees)]
    return Compared(
        devices,
        remote,
        float(test.right.double().mean()),
        float(test.answered.double().mean()),
        curves,
        {unit: float(found.cost.mean()) for unit, found in calibrated["test"].items()},
        sum(took[devices[number]] for number in test.device) / len(test.device),
        (errors[0], errors[1]),
        [one for given in budgets for one in kept(given, calibrated, plain)],
    )


def _classifier(run: Trained, peer: PeerName) -> Classifier:
    student = run.student(peer)
    if not isinstance(student, Classifier):
        raise ConfigError(f"'{peer}' is no classifier, and policies are for those")
    return student


def _error(
    said: Mapping[tuple[PeerName, PeerName], Said],
    devices: Sequence[PeerName],
    degrees: Mapping[PeerName, float],
) -> float:
    """Mean calibration error of the devices."""
    found = []
    for peer in devices:
        own = said[peer, peer]
        known = own.y != NO_LABEL
        chances = (own.logits[known] / degrees[peer]).softmax(-1)
        found.append(float(calibration_error(chances[None], own.y[known][None])))
    return sum(found) / len(found)
