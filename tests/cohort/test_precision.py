"""Precisions are Lightning's: forwards in bfloat16 with weights and what peers hear in single precision, or all
in double precision."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.coordination.oracle import Oracle
from mmkd.data import PublicSamples, Samples
from mmkd.federated import FedAvg, FedLin
from mmkd.knowledge import MultiHeadDistillation, Prototypes, SharedDetections, SharedLogits
from mmkd.students import AudioStudent, DetectionStudent
from mmkd.topology import Ring, Star
from tests.frames import Frames
from tests.grids import each_once
from tests.tiny import CLASSES, Eye, TinyData, fit, fleets, schedule, sgd

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


DOUBLE: dict[str, Any] = {
    "both": METHODS["both"],
    "classes": lambda: DecentralizedCallback(Prototypes(), None, Star(), schedule()),
    "gradients": lambda: DecentralizedCallback(None, FedLin(), Star(), schedule()),
    "oracle": lambda: DecentralizedCallback(
        oracle=Oracle(lambda n: Eye(n), SharedLogits()), schedule=schedule()
    ),
}


@each_once(method=list(DOUBLE))
def test_in_double_precision_both_paths_agree(method: str) -> None:
    """Samples are in single precision, and come in double wherever students read them.

    Two rounds of seven steps of the same float64 arithmetic in two orders differ in its last digits; in single
    precision they would from the eighth on. What travels is rounded to single precision, on either side of which
    two such numbers may fall: 6e-8 of it.
    """
    found = []
    for vectorize in ("never", "always"):
        peers = fleets(2, 2, drop=0.0, heads=2, optimizer=sgd(0.05))
        peers = {"cameras": peers["cameras"]} if method == "oracle" else peers
        cohort = Cohort(peers, CLASSES, vectorize=vectorize)
        fit(cohort, DOUBLE[method](), precision="64-true", max_epochs=1)
        found.append(cohort.state_dict())
    for name, tensor in found[0].items():
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float64
            bound = 1e-10 if method == "gradients" else 1e-6
            torch.testing.assert_close(tensor, found[1][name], rtol=bound, atol=bound)


class Sounds(TinyData):
    """A tenth of a second each."""

    modalities = ("audio",)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        sound = torch.randn(100, 800, generator=torch.Generator().manual_seed(0))
        y = torch.arange(100) % CLASSES
        self.pool, self.held_out = Samples(sound, y), Samples(sound[:20], y[:20])
        self.public_x = sound[:40]

    def private(self, peer: str, split: str) -> Any:
        return self.pool if split == "train" else self.held_out

    def public(self, split: str) -> Any:
        return PublicSamples({"audio": self.public_x})


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_students_of_sound_and_of_bytes_train_vectorised(precision: Any) -> None:
    """Behind a linear front end, with a filter bank that nobody saves; and with frames of bytes."""
    ears = {"ears": Fleet(lambda n: AudioStudent(n, width=8, optimizer=sgd(0.1)), 2)}
    plan = {"local_steps": 2, "rounds_per_epoch": 1, "block": 2}
    callback = DecentralizedCallback(SharedLogits(), FedAvg(), Star(), schedule(**plan))
    cohort = Cohort(ears, CLASSES, vectorize="always", compile="record")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be recorded.*")
        fit(cohort, callback, Sounds(batch_size=8), precision=precision, max_epochs=1)
    settings = {"backbone": "test_resnet", "channels": 8, "strides": [8, 16]}
    eyes = {"eyes": Fleet(lambda n: DetectionStudent(n, settings=settings, optimizer=sgd(0.01)), 2)}
    callback = DecentralizedCallback(SharedDetections(), FedAvg(), Star(), schedule(**plan))
    other = Cohort(eyes, 1, vectorize="always")
    fit(other, callback, Frames(batch_size=4), precision=precision, max_epochs=1, limit_val_batches=0)
    right = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for c in (cohort, other) for p in c.parameters()} == {right}
