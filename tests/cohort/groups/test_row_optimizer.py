"""Each row steps as if it had an optimizer to itself: its own rate, its own clock, or no step at all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from tests.tiny import CLASSES, Eye, TinyDataDouble, fit, fleets, schedule, sgd


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_a_peer_that_sits_out_stays_as_it_is(vectorize: Any) -> None:
    """With fewer local steps a peer's weights, counters and optimizer state match a shorter run."""
    cohort = Cohort(fleets(drop=0.0), CLASSES, vectorize=vectorize)
    work = schedule(local_steps={"cameras": 6, "cameras/0": 2, "microphones": 6}, rounds_per_epoch=1)
    fit(cohort, DecentralizedCallback(schedule=work), max_epochs=1)
    short = Cohort(fleets(drop=0.0), CLASSES, vectorize=vectorize)
    fit(short, DecentralizedCallback(schedule=schedule(local_steps=2, rounds_per_epoch=1)), max_epochs=1)
    name = "cameras/0"
    tolerance = 0.0 if vectorize == "never" else 1e-6
    for n, tensor in short.student(name).state_dict().items():
        torch.testing.assert_close(
            cohort.student(name).state_dict()[n], tensor, rtol=tolerance, atol=tolerance
        )
    (group, row), (other, place) = cohort.axis.locate(name), short.axis.locate(name)
    assert group.optimizer_state(row)["clock"] == other.optimizer_state(place)["clock"] == 2
    assert cohort.axis.locate("cameras/1")[0].optimizer_state(1)["clock"] == 6


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_learning_rates_are_per_peer(vectorize: Any) -> None:
    """One SGD step from equal weights on the same data: the displacement is proportional to the rate."""
    scales = [1.0, 0.5, 0.0] if vectorize == "never" else [1.0, 0.5, 2.0]
    peers = {"cameras": Fleet(lambda n: Eye(n, drop=0.0, optimizer=sgd(0.1)), 3, None, scales)}
    cohort = Cohort(peers, CLASSES, vectorize=vectorize).double()

    class Same(TinyDataDouble):
        def private(self, peer: str, split: str) -> Any:
            return self.held_out

        def assign(self, peers: Any, ids: Any = None) -> None:
            super().assign(peers, dict.fromkeys(peers, "one"))

    start = copy.deepcopy(cohort.student("cameras/0"))
    fit(cohort, DecentralizedCallback(schedule=schedule(local_steps=1, rounds_per_epoch=1)),
        Same(batch_size=16), max_epochs=1)  # fmt: skip
    for n, p in start.named_parameters():
        base = dict(cohort.student("cameras/0").named_parameters())[n] - p
        for k, scale in enumerate(scales):
            moved = dict(cohort.student(f"cameras/{k}").named_parameters())[n] - p
            torch.testing.assert_close(moved, scale * base, rtol=1e-12, atol=1e-14)
