"""fp16 as Lightning has it, with torch's scaler, here on the CPU: gradients are true ones for all who read them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.amp import GradScaler

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import Samples
from mmkd.federated import FedLin, FedProx, GradientTracking, Mime, Scaffold
from mmkd.participation import Trace
from mmkd.students import Classifier
from mmkd.topology import Complete, Star
from tests.grids import pairwise
from tests.tiny import CLASSES, FEATURES, Eye, TinyData, adam_steps, fit, schedule, sgd

METHODS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "alone": lambda: (None, Complete()),
    "FedProx": lambda: (FedProx(mu=1.0), Star()),
    "SCAFFOLD": lambda: (Scaffold(), Star()),
    "SCAFFOLD, full": lambda: (Scaffold(controls="full"), Star()),
    "MIME": lambda: (Mime(), Star()),
    "FedLin": lambda: (FedLin(), Star()),
    "gradient tracking": lambda: (GradientTracking(), Complete()),
}


def half(scale: float) -> list[Any]:
    return [MixedPrecision("16-mixed", "cpu", scaler=GradScaler("cpu", init_scale=scale))]


def weights(cohort: Cohort) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in cohort.state_dict().items() if t.is_floating_point()}


def gap(a: dict[str, Tensor], b: dict[str, Tensor], of: str = "") -> float:
    return max(float((a[n] - b[n]).abs().max()) for n in a if of in n)


def train(
    method: Callable[[], tuple[Any, Any]], peers: int, vectorize: Any, **kwargs: Any
) -> tuple[float, dict[str, Tensor]]:
    """How far some weight has moved, and where all are."""
    make = lambda n: Eye(n, drop=0.0, optimizer=sgd(0.05))  # noqa: E731  # short
    clip = kwargs.pop("clip", None)
    cohort = Cohort({"cameras": Fleet(make, peers)}, CLASSES, vectorize=vectorize, clip=clip)
    before = weights(cohort)
    aggregation, topology = method()
    steps = 1 if isinstance(aggregation, GradientTracking) else 4
    when = schedule(local_steps=steps, rounds_per_epoch=8 // steps)
    callback, data = DecentralizedCallback(None, aggregation, topology, when), Even(batch_size=16)
    fit(cohort, callback, data, max_epochs=1, **kwargs)
    return gap(before, weights(cohort)), weights(cohort)


@pairwise(method=METHODS, peers=[1, 3], vectorize=["always", "never"], clip=[None, 0.5])
def test_half_precision_is_single_precision_within_its_rounding(
    method: Any, peers: int, vectorize: Any, clip: float | None
) -> None:
    """Activations are rounded by 2^-11; to a hundredth of what moved, whoever corrects or clips."""
    moved, single = train(method, peers, vectorize, clip=clip)
    _, halved = train(method, peers, vectorize, clip=clip, plugins=half(1024.0))
    assert moved > 0.01
    assert gap(single, halved) < 0.01 * moved


@pytest.mark.long
@pytest.mark.parametrize("vectorize", ["always", "never"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_so_it_is_among_many(method: Any, vectorize: Any) -> None:
    """Sixty-four peers: a scaler that divided once a row would leave nothing of a gradient."""
    moved, single = train(method, 64, vectorize)
    _, halved = train(method, 64, vectorize, plugins=half(1024.0))
    assert gap(single, halved) < 0.01 * moved


class Even(TinyData):
    """Of many peers each has a batch of samples of its own, or shares some with another."""

    def private(self, peer: str, split: str) -> Any:
        if split != "train":
            return self.held_out
        start = 16 * self.of(self.peers[peer]).index(peer) % 280
        return self.pool.subset(range(start, start + 20))


class Loud(TinyData):
    """The second camera's samples are a thousand times as large as the first's, and so are its gradients."""

    def private(self, peer: str, split: str) -> Any:
        samples: Any = super().private(peer, split)
        return Samples(samples.x * 1000, samples.y) if peer == "cameras/1" and split == "train" else samples


class Flat(Classifier):
    """A linear student, whose gradient grows with its samples."""

    modalities = ("image",)

    def embed(self, x: Tensor) -> Tensor:
        return x


class Steps(Callback):
    """The scale after each block of one tick, and how far each peer has moved in it."""

    def __init__(self) -> None:
        self.scales: list[float] = []
        self.moved: list[list[bool]] = []

    def on_train_batch_start(self, trainer: Any, cohort: Any, *args: Any) -> None:
        self.before = weights(cohort)

    def on_train_batch_end(self, trainer: Any, cohort: Any, *args: Any) -> None:
        self.scales.append(trainer.precision_plugin.scaler.get_scale())
        after = weights(cohort)
        learned = [[n for n in after if f"/{i}.main" in n] for i in range(2)]
        self.moved.append([any(not torch.equal(after[n], self.before[n]) for n in own) for own in learned])


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_who_overflows_skips_a_step_and_nobody_else_does(vectorize: Any) -> None:
    """The scale is halved until the second camera's gradient fits; the first steps from the start."""
    make = lambda n: Flat(n, dim=FEATURES, optimizer=partial(torch.optim.Adam, lr=1e-3))  # noqa: E731  # short
    cohort = Cohort({"cameras": Fleet(make, 2)}, CLASSES, vectorize=vectorize)
    seen = Steps()
    when = schedule(local_steps=1, block=1, rounds_per_epoch=12)
    callback, data = DecentralizedCallback(schedule=when), Loud(batch_size=16)
    fit(cohort, callback, data, max_epochs=1, extra=[seen], plugins=half(4096.0))
    first, second = zip(*seen.moved, strict=True)
    assert all(first)
    assert not second[0]
    assert second[-1]
    scale = 4096.0
    for stepped, now in zip(second, seen.scales, strict=True):
        scale = scale if stepped else scale / 2
        assert now == scale
    assert adam_steps(cohort, "cameras/0") == {12}
    assert adam_steps(cohort, "cameras/1") == {sum(second)}


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_a_tick_in_which_everybody_rests_scales_nothing(vectorize: Any) -> None:
    """A scaler must have looked at a gradient; there is none, and nobody moves."""
    cohort = Cohort(
        {"cameras": Fleet(lambda n: Eye(n, optimizer=sgd(0.05)), 2)}, CLASSES, vectorize=vectorize
    )
    away = Trace({"cameras/0": [[1, 9]], "cameras/1": [[1, 9]]})
    seen = Steps()
    when = schedule(local_steps=1, block=1, rounds_per_epoch=2)
    callback = DecentralizedCallback(None, None, Complete(), when, participation=away)
    fit(cohort, callback, max_epochs=1, extra=[seen], plugins=half(1024.0))
    assert seen.moved == [[False, False], [True, True]]
    assert seen.scales == [1024.0, 1024.0]
