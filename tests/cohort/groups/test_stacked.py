"""Peers that train in one vectorised step have the weights of peers that train one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.federated import FedAvg
from mmkd.knowledge import SharedLogits
from mmkd.topology import Ring
from tests.tiny import CLASSES, TinyDataDouble, fit, fleets, schedule, sgd


@pytest.mark.parametrize(
    ("optimizer", "tolerance"), [(None, 1e-8), (sgd(0.05, momentum=0.9, nesterov=True), 1e-10)]
)
def test_vectorised_equals_one_after_the_other(optimizer: Any, tolerance: float) -> None:
    """Weights after 21 float64 steps with unequal work, clipping, knowledge and averaging."""
    extra = {} if optimizer is None else {"optimizer": optimizer}
    states = []
    for vectorize in ("never", "always"):
        cohort = Cohort(fleets(drop=0.0, **extra), CLASSES, vectorize=vectorize, clip=1.0).double()  # type: ignore[arg-type]
        work = {"cameras": 7, "cameras/1": 4, "microphones": 5}
        callback = DecentralizedCallback(
            SharedLogits(), FedAvg(optimizer_state="keep"), Ring(), schedule(local_steps=work)
        )
        fit(cohort, callback, TinyDataDouble(batch_size=16), max_epochs=2, max_steps=21)
        states.append({n: cohort.student(n).state_dict() for n in cohort.names})
    for name, state in states[0].items():
        for n, tensor in state.items():
            torch.testing.assert_close(states[1][name][n], tensor, rtol=tolerance, atol=tolerance)
