"""``vectorize: auto`` measures on copies: what it decides may differ, what it leaves behind may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import LBFGS

from mmkd.cohort import probe
from mmkd.cohort.probe import stacked_is_faster
from mmkd.cohort.sequential import SequentialGroup
from mmkd.types import Batches
from tests.tiny import CLASSES, FEATURES, Eye, sgd

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
        assert stacked_is_faster(group(), batches()) is (fast < slow)


def test_measuring_leaves_no_trace() -> None:
    measured, draws = group(), batches()
    measured.build_optimizers([1.0] * PEERS)
    before = {name: tensor.clone() for name, tensor in measured.state_dict().items()}
    stream = torch.get_rng_state()
    stacked_is_faster(measured, draws)
    assert torch.equal(torch.get_rng_state(), stream)
    after = measured.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in measured.parameters())
    assert not any(optimizer.state for optimizer in measured.optimizers())


@pytest.mark.parametrize(
    "impossible",
    [lambda: group(Data), lambda: group(optimizer=lambda p: LBFGS(p))],
    ids=["data", "optimizer"],
)
def test_what_cannot_be_vectorised_is_trained_one_after_the_other(impossible: Any) -> None:
    assert stacked_is_faster(impossible(), batches()) is False
