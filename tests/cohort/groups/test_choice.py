"""``vectorize: auto`` measures on copies: what it decides may differ, what it leaves behind may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import LBFGS

from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups import choice as probe
from mmkd.cohort.groups.choice import choose
from mmkd.cohort.groups.sequential import SequentialGroup
from mmkd.types import Batches, ConfigError
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


def test_the_faster_path_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for slow, fast in ((2.0, 1.0), (1.0, 2.0)):

        def seconds(timed: Any, batches: Sequence[Batches], slow: float = slow, fast: float = fast) -> float:
            return slow if isinstance(timed, SequentialGroup) else fast

        monkeypatch.setattr(probe, "_seconds", seconds)
        assert choose(group(), batches()) == (fast < slow, (fast, slow))


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
        assert choose(impossible(), batches()) == (False, None)


def test_what_is_to_be_vectorised_and_cannot_be_says_where() -> None:
    cohort = Cohort({"eyes": Fleet(lambda n: Data(n), 3)}, CLASSES, vectorize="always")
    with pytest.raises(
        ConfigError,
        match=r"students of 'eyes' cannot be vectorised: vmap: .*float\(x\.sum\(\)\) > 0.*set model\.vectorize: never",
    ):
        fit(cohort)


@each_once(slow=[True, False], init=["own", "shared"])
def test_what_was_chosen_trains_the_same_students(
    slow: bool, init: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same draws, whichever way; and the choice is on record."""
    monkeypatch.setattr(probe, "_seconds", lambda timed, _: isinstance(timed, SequentialGroup) is not slow)

    def train(vectorize: Any) -> Cohort:
        cohort = Cohort(fleets(drop=0.0), CLASSES, vectorize=vectorize, init=init)
        fit(cohort, data=TinyData(batch_size=16), max_epochs=1)
        return cohort

    chosen, told = train("auto"), train("never" if slow else "always")
    assert [type(g) for g in chosen.groups] == [type(g) for g in told.groups]
    assert all(torch.equal(t, told.state_dict()[n]) for n, t in chosen.state_dict().items())
    assert {fleet: c.vectorized for fleet, c in chosen.choices.items()} == dict.fromkeys(fleets(), not slow)


def test_one_peer_is_itself() -> None:
    cohort = Cohort({"eyes": Fleet(Eye)}, CLASSES)
    fit(cohort, max_epochs=1)
    assert isinstance(cohort.groups[0], SequentialGroup)
    assert not cohort.choices
