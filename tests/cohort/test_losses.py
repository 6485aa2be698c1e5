"""A loss that is not finite ends a run, and says whose it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import Aggregation, FedAvg, Gossip
from mmkd.topology import Ring, Star
from mmkd.types import DivergedError
from tests.tiny import CLASSES, Eye, fit, fleets, schedule, sgd


def test_the_peer_that_diverged_is_named() -> None:
    class Mad(Eye):
        def private_loss(self, batch: Any) -> Tensor:
            return super().private_loss(batch) * float("nan")

    peers = {**fleets(eyes=2), "mad": Fleet(lambda n: Mad(n), 1)}
    with pytest.raises(DivergedError, match="'mad/0' is nan at its local step 0"):
        fit(Cohort(peers, CLASSES, vectorize="never"))


@pytest.mark.parametrize("vectorize", ["always", "never"])
@pytest.mark.parametrize("value", [float("nan"), 1e30])  # the square of the latter is infinite
def test_a_peer_is_named_by_its_weights(vectorize: Any, value: float) -> None:
    cohort = Cohort(fleets(eyes=3), CLASSES, vectorize=vectorize)
    cohort.axis.refuse_diverged(cohort.names)
    with torch.no_grad():
        cohort.student("cameras/2").main.weight[0, 0] = value  # type: ignore[operator,index,union-attr]  # a Linear
    cohort.axis.refuse_diverged(["cameras/1", "microphones/0", "cameras/0"])
    with pytest.raises(DivergedError, match="the weights of peer 'cameras/2' are no longer finite"):
        cohort.axis.refuse_diverged(cohort.names)


@pytest.mark.parametrize("aggregation", [FedAvg(), Gossip()])
def test_who_diverges_is_named_before_its_weights_leave_it(aggregation: Aggregation) -> None:
    """Every loss of the next step is not finite, for all hold a share of them."""
    rates = [1.0, 1.0, 1e26]
    peers = {"cameras": Fleet(lambda n: Eye(n, optimizer=sgd(0.01)), 3, learning_rate_scale=rates)}
    graph = Star() if isinstance(aggregation, FedAvg) else Ring()
    callback = DecentralizedCallback(None, aggregation, graph, schedule(local_steps=1))
    with pytest.raises(DivergedError, match="'cameras/2'"):
        fit(Cohort(peers, CLASSES, vectorize="always"), callback)


def test_a_last_step_that_ruins_a_peer_is_no_score() -> None:
    """Losses are those before a step."""
    peers = {"cameras": Fleet(lambda n: Eye(n, optimizer=sgd(0.01)), 2, learning_rate_scale=[1.0, 1e30])}
    with pytest.raises(DivergedError, match="'cameras/1'"):
        fit(
            Cohort(peers, CLASSES, vectorize="always"),
            DecentralizedCallback(schedule=schedule(local_steps=1, rounds_per_epoch=1)),
            max_epochs=1,
        )
