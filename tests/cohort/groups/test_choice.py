"""``vectorize: auto`` is a function of student, batch and device; it tries on copies and leaves no trace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS

from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups import choice as module
from mmkd.cohort.groups.choice import choose, convolutions
from mmkd.cohort.groups.sequential import SequentialGroup
from mmkd.types import Batch, Batches, ConfigError
from tests.grids import each_once
from tests.tiny import CLASSES, FEATURES, Eye, TinyData, fit, fleets, sgd

PEERS = 3


class Data(Eye):
    """Asks a tensor for its value, which no vectorised function can answer."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x) if float(x.sum()) > 0 else super().embed(-x)


def group(kind: type[Eye] = Eye, optimizer: Any = None) -> SequentialGroup:
    names = [f"p/{i}" for i in range(PEERS)]
    return SequentialGroup(names, names, [kind(CLASSES, optimizer=optimizer or sgd(0.1)) for _ in names])


def batches() -> list[Batches]:
    names, x, y = (
        [f"p/{i}" for i in range(PEERS)],
        torch.randn(PEERS, 4, FEATURES),
        torch.randint(CLASSES, (PEERS, 4)),
    )
    return [Batches(names, x, y, torch.arange(4).expand(PEERS, 4), list(range(PEERS)))]


class Seen(Eye):
    """A convolution of one channel to as many as wanted, over 8 places of 4 samples."""

    def __init__(self, num_classes: int, channels: int, **kwargs: Any) -> None:
        super().__init__(num_classes, drop=0.0, **kwargs)
        self.seen = nn.Conv1d(1, channels, 1)

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(self.seen(x[:, None]).mean(1))


def test_what_counts_is_operations_of_convolutions_for_each_call() -> None:
    """Of 4 samples 8 places, each channel a multiply-add (2): forward, and as many for the weights backward.

    The input needs no gradient. Ten times the channels are ten times the operations in as many calls.
    """
    x, y = torch.randn(4, FEATURES), torch.randint(CLASSES, (4,))
    one, ten = (convolutions(Seen(CLASSES, n), Batch(x, y, torch.arange(4), 0)) for n in (3, 30))
    assert ten == pytest.approx(10 * one)
    calls = 2 * 2 * 3 * 8 * 4 / one
    assert calls == pytest.approx(round(calls))
    assert convolutions(Eye(CLASSES), Batch(x, y, torch.arange(4), 0)) == 0


def test_the_bound_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a clock says; and the reason is on record."""
    monkeypatch.setattr("time.perf_counter", lambda: 1 / 0)
    students = [Seen(CLASSES, 2, optimizer=sgd(0.1)) for _ in range(PEERS)]
    names = [f"p/{i}" for i in range(PEERS)]
    seen = SequentialGroup(names, names, students)
    found = convolutions(students[0], Batch(*(t[0] for t in batches()[0][1:4]), 0))
    for bound, vectorized in ((found * 1.01, True), (found, False)):
        monkeypatch.setattr(module, "BOUND", bound)
        choice = choose(seen, batches())
        assert choice.vectorized is vectorized
        assert f"{found / 1e6:.2f} million operations of convolutions for each call" in choice.reason
    assert choose(group(), batches()).vectorized


def test_measuring_leaves_no_trace() -> None:
    measured, draws = group(), batches()
    measured.build_optimizers([1.0] * PEERS)
    before = {name: tensor.clone() for name, tensor in measured.state_dict().items()}
    stream = torch.get_rng_state()
    choose(measured, draws)
    assert torch.equal(torch.get_rng_state(), stream)
    after = measured.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in measured.parameters())
    assert not any(optimizer.state for optimizer in measured.optimizers())


@pytest.mark.parametrize(
    ("impossible", "reason"),
    [
        (
            lambda: group(Data),
            r"vmap: .*\.item\(\).* \(at `return super\(\)\.embed\(x\) if float\(x\.sum\(\)\) > 0",
        ),
        (lambda: group(optimizer=lambda p: LBFGS(p)), "LBFGS cannot step many peers at once"),
    ],
    ids=["data", "optimizer"],
)
def test_what_cannot_be_vectorised_is_trained_one_after_the_other(impossible: Any, reason: str) -> None:
    with pytest.warns(UserWarning, match=f"the peers of 'p' train one after the other: {reason}"):
        choice = choose(impossible(), batches())
    assert not choice.vectorized
    assert re.search(reason, choice.reason)


def test_what_is_to_be_vectorised_and_cannot_be_says_where() -> None:
    cohort = Cohort({"eyes": Fleet(lambda n: Data(n), 3)}, CLASSES, vectorize="always")
    with pytest.raises(
        ConfigError,
        match=r"students of 'eyes' cannot be vectorised: vmap: .*float\(x\.sum\(\)\) > 0.*set model\.vectorize: never",
    ):
        fit(cohort)


@each_once(slow=[True, False], init=["own", "shared"])
def test_what_was_chosen_trains_the_same_students(
    slow: bool, init: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same draws, whichever way; and the choice is on record, in a run that goes on, too."""
    monkeypatch.setattr(module, "BOUND", 0.0 if slow else 1.0)

    def train(vectorize: Any, epochs: int = 1, begun: Path | None = None) -> Cohort:
        cohort = Cohort(fleets(drop=0.0), CLASSES, vectorize=vectorize, init=init)
        run = fit(cohort, data=TinyData(batch_size=16), max_epochs=epochs, ckpt_path=begun)
        run.save_checkpoint(tmp_path / f"{vectorize}.ckpt")
        return cohort

    chosen, told = train("auto"), train("never" if slow else "always")
    assert [type(g) for g in chosen.groups] == [type(g) for g in told.groups]
    assert all(torch.equal(t, told.state_dict()[n]) for n, t in chosen.state_dict().items())
    assert {fleet: c.vectorized for fleet, c in chosen.ways.choices.items()} == dict.fromkeys(
        fleets(), not slow
    )
    monkeypatch.setattr(module, "BOUND", 1.0 if slow else 0.0)  # what was chosen stays
    assert train("auto", 2, tmp_path / "auto.ckpt").ways.choices == chosen.ways.choices


def test_one_peer_is_itself() -> None:
    cohort = Cohort({"eyes": Fleet(Eye)}, CLASSES)
    fit(cohort, max_epochs=1)
    assert isinstance(cohort.groups[0], SequentialGroup)
    assert not cohort.ways.choices
