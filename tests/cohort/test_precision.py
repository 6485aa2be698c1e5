"""Half precision is Lightning's: forwards in bfloat16, weights and what peers hear in single precision."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.federated import FedAvg
from mmkd.knowledge import MultiHeadDistillation, SharedLogits
from mmkd.topology import Ring, Star
from tests.tiny import CLASSES, fit, fleets, schedule, sgd

METHODS: dict[str, Any] = {
    "alone": lambda: None,
    "both": lambda: DecentralizedCallback(SharedLogits(), FedAvg(), Star(), schedule()),
    "heads": lambda: DecentralizedCallback(MultiHeadDistillation(), None, Ring(), schedule()),
}


def states(method: str, vectorize: Any, compile: Any = "never", precision: Any = "bf16-mixed") -> Any:
    students = fleets(drop=0.0, heads=2, optimizer=sgd(0.05))
    cohort = Cohort(students, CLASSES, vectorize=vectorize, compile=compile)
    fit(cohort, METHODS[method](), precision=precision, max_epochs=1)
    return cohort.state_dict(), cohort.metrics


@pytest.mark.parametrize("method", list(METHODS))
def test_every_path_trains_in_half_precision(method: str) -> None:
    full, right = states(method, "always", precision="32-true")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be recorded.*")
        found = {
            ("never", "never"): states(method, "never"),
            ("always", "never"): states(method, "always"),
            ("always", "record"): states(method, "always", "record"),
        }
    for state, metrics in found.values():
        for name, tensor in state.items():
            assert tensor.dtype == full[name].dtype
            if "weight" in name:  # eight bits of mantissa over 14 steps
                torch.testing.assert_close(tensor, full[name], rtol=0.1, atol=0.05)
        for peer, m in metrics.items():
            assert m["shared_accuracy"] == pytest.approx(right[peer]["shared_accuracy"], abs=0.05)
    plain, recorded = found["always", "never"][0], found["always", "record"][0]
    assert all(torch.equal(tensor, recorded[name]) for name, tensor in plain.items())
    assert any(not torch.equal(t, full[n]) for n, t in plain.items() if isinstance(t, Tensor))
