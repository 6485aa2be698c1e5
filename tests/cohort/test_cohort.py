"""The contracts of a cohort, through ``Trainer.fit``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.build import _check_memory
from mmkd.federated import FedAvg, FedProx
from mmkd.knowledge import SharedLogits
from mmkd.topology import Complete, Ring, Star
from mmkd.types import ConfigError
from tests.grids import each_once
from tests.tiny import CLASSES, Ear, Eye, fit, fleets, schedule


def both() -> DecentralizedCallback:
    return DecentralizedCallback(SharedLogits(), FedAvg(), Star(), schedule())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@each_once(topology=[Star(), Ring(), Complete()], vectorize=["never", "always"])
def test_order_and_names_of_peers_change_nothing(vectorize: Any, topology: Any) -> None:
    """Fleets listed in another order, and renamed with their ids kept, give the same weights."""
    ids = {"a": ["x0", "x1", "x2"], "b": ["y0", "y1"]}
    eye, ear = (lambda n: Eye(n)), (lambda n: Ear(n))
    first = {"cameras": Fleet(eye, 3, ids["a"]), "microphones": Fleet(ear, 2, ids["b"])}
    second = {"ears": Fleet(ear, 2, ids["b"]), "eyes": Fleet(eye, 3, ids["a"])}
    states = []
    for peers in (first, second):
        cohort = Cohort(peers, CLASSES, vectorize=vectorize)
        callback = DecentralizedCallback(SharedLogits(), FedAvg(), topology, schedule())
        fit(cohort, callback, max_epochs=1)
        states.append({cohort.ids[n]: cohort.student(n).state_dict() for n in cohort.names})
    assert states[0].keys() == states[1].keys()
    for ident in states[0]:
        assert equal(states[0][ident], states[1][ident]), ident


def test_exchange_changes_the_weights() -> None:
    """Without this, every other contract would hold for a coordinator that does nothing."""
    states = []
    for callback in (
        DecentralizedCallback(schedule=schedule()),
        DecentralizedCallback(SharedLogits(), schedule=schedule()),
        DecentralizedCallback(None, FedAvg(), schedule=schedule()),
        DecentralizedCallback(SharedLogits(samples="all"), schedule=schedule()),
        both(),
    ):
        cohort = Cohort(fleets(), CLASSES, vectorize="never")
        fit(cohort, callback, max_epochs=1)
        states.append(cohort.student("cameras/0").state_dict()["main.weight"])
    for i, a in enumerate(states):
        for b in states[:i]:
            assert not torch.equal(a, b)


class Watched(DecentralizedCallback):
    """Writes down at which ticks the cohort asks its coordinator for what."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        self.asked: list[tuple[str, int]] = []
        for name in ("begin", "teach", "correct", "end"):
            setattr(self.coordinator, name, self._watched(name, getattr(self.coordinator, name)))

    def _watched(self, name: str, hook: Any) -> Any:
        def asked(when: Any, *args: Any) -> Any:
            self.asked.append((name, when if isinstance(when, int) else when.tick))
            return hook(when, *args)

        return asked


@pytest.mark.parametrize(
    ("knowledge", "aggregation", "expected"),
    [
        (None, FedAvg(), {"begin": [0, 4], "end": [3, 7]}),
        (None, FedProx(mu=0.1), {"begin": [0, 4], "correct": list(range(8)), "end": [3, 7]}),
        (SharedLogits(), None, {"teach": list(range(8)), "end": [3, 7]}),
        (None, None, {"end": [3, 7]}),
    ],
    ids=["weights", "corrections", "batches", "nothing"],
)
def test_a_coordinator_is_asked_at_ticks_that_need_it_alone(
    knowledge: Any, aggregation: Any, expected: dict[str, list[int]]
) -> None:
    """Two rounds of four ticks; after the last tick of a round there are figures to log."""
    when = schedule(local_steps=4, knowledge_every=None if knowledge is None else 1)
    callback = Watched(knowledge, aggregation, Star(), when)
    fit(Cohort(fleets(), CLASSES), callback, max_epochs=1)
    found: dict[str, list[int]] = {}
    for name, tick in callback.asked:
        found.setdefault(name, []).append(tick)
    assert found == expected


def test_a_later_trainer_without_a_coordinator_exchanges_nothing() -> None:
    cohort = Cohort(fleets(), CLASSES, vectorize="always")
    callback = both()
    fit(cohort, callback, max_epochs=1)
    weights = cohort.axis.weights(["cameras/0", "cameras/1"], buffers=False)
    assert all(torch.equal(leaf[0], leaf[1]) for leaf in weights.values())
    before = copy.deepcopy(callback.ledger)
    fit(cohort, max_epochs=1)
    assert callback.ledger == before
    assert cohort.coordinator is None
    weights = cohort.axis.weights(["cameras/0", "cameras/1"], buffers=False)
    assert not torch.equal(weights["main.weight"][0], weights["main.weight"][1])


def test_two_coordinators_are_refused() -> None:
    with pytest.raises(ConfigError, match="two callbacks coordinate this cohort; give the trainer one"):
        fit(Cohort(fleets(), CLASSES), both(), extra=[Watched(schedule=schedule())], max_epochs=1)


def test_a_fleet_that_no_machine_holds_is_refused_before_it_is_built() -> None:
    """Two hundred million students of some kilobytes."""
    with pytest.raises(
        ConfigError, match=r"fleet 'eyes' of 200,000,000 peers take \d+ GiB, and this machine has"
    ):
        _check_memory(Eye(CLASSES), "eyes", 200_000_000)
