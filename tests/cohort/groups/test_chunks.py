"""A chunk of peers at a time: the same numbers in less memory, and fewer at a time when there is none left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups import chunks as memory
from mmkd.cohort.groups.chunks import bytes_held, peers_together
from mmkd.cohort.groups.stacked import StackedGroup
from mmkd.federated import FedAvg, Scaffold
from mmkd.knowledge import SharedLogits
from mmkd.participation import Sampled
from mmkd.topology import Ring, Star
from mmkd.types import ConfigError
from tests.grids import each_once
from tests.tiny import CLASSES, Eye, TinyData, TinyDataDouble, fit, fleets, schedule

METHODS = {
    "alone": lambda: None,
    "distilling": lambda: DecentralizedCallback(SharedLogits(), None, Ring(), schedule()),
    "scaffold": lambda: DecentralizedCallback(None, Scaffold(), Star(), schedule()),
    "some": lambda: DecentralizedCallback(None, FedAvg(), Star(), schedule(), participation=Sampled(count=1)),
}


def run(method: str, chunk: Any, **kwargs: Any) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    cohort = Cohort(fleets(drop=0.0), CLASSES, vectorize="always", peers_per_chunk=chunk, **kwargs)
    fit(cohort.double(), METHODS[method](), TinyDataDouble(batch_size=16), max_epochs=1)
    return cohort.state_dict(), cohort.metrics


@each_once(method=list(METHODS), chunk=[1, 2], compile=["never", "record"])
def test_chunks_change_no_number(method: str, chunk: int, compile: Any) -> None:
    whole, metrics = run(method, 100, compile=compile)
    parts, same = run(method, chunk, compile=compile)
    for key, tensor in whole.items():
        torch.testing.assert_close(parts[key], tensor, rtol=1e-9, atol=1e-9)
    assert metrics == same


def test_parts_of_a_batch_in_chunks() -> None:
    whole, _ = run("distilling", 100, accumulate=3)
    parts, _ = run("distilling", 2, accumulate=3)
    for key, tensor in whole.items():
        torch.testing.assert_close(parts[key], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate", "can't allocate memory: you tried"]
)
def test_out_of_memory_halves_the_chunk_and_says_so(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(limit: int) -> dict[str, Tensor]:
        tried: list[int] = []
        honest = StackedGroup._descend

        def descend(self: StackedGroup, rows: list[int], *rest: Any) -> Tensor:
            tried.append(len(rows))
            if len(rows) > limit:  # when some gradients have been found already
                self._named["main.weight"].grad = torch.ones_like(self._named["main.weight"])
                raise torch.OutOfMemoryError(message) if "CUDA" in message else RuntimeError(message)
            return honest(self, rows, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(StackedGroup, "_descend", descend)
            eyes = Fleet(lambda n: Eye(n, drop=0.0), 5)
            cohort = Cohort({"eyes": eyes}, CLASSES, vectorize="always", peers_per_chunk=5)
            fit(cohort.double(), data=TinyDataDouble(batch_size=16), max_epochs=1)
        assert max(tried) == 5
        assert tried.count(5) == (1 if limit < 5 else len(tried))
        return cohort.state_dict()

    plain = step(limit=5)
    with pytest.warns(
        UserWarning, match="out of memory with 5 peers at a time; going on with 2: set model.pe"
    ):
        halved = step(limit=2)
    for key, tensor in plain.items():
        torch.testing.assert_close(halved[key], tensor, rtol=1e-9, atol=1e-9)


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def descend(*args: Any) -> Tensor:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(StackedGroup, "_descend", descend)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        fit(Cohort({"eyes": Fleet(Eye, 3)}, CLASSES, vectorize="always"))


def test_what_a_backward_will_read_is_counted_once() -> None:
    x, w = torch.randn(8, 5), torch.randn(5, requires_grad=True)
    # x * w keeps x for w; squaring keeps the product; summing keeps nothing.
    assert bytes_held(lambda: (x * w).square().sum()) == 4 * (8 * 5 + 8 * 5)
    assert bytes_held(lambda: (x * w).sum() + (x * w.exp()).sum()) == 4 * (8 * 5 + 5)


def test_as_many_go_together_as_a_budget_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(memory, "BUDGET", 1000)
    monkeypatch.setattr(memory, "NEAR", 500)
    monkeypatch.setattr(memory, "ENOUGH", 4)
    # A device takes what its memory holds; a processor what its cache does, but no fewer than are worth it.
    assert peers_together(10, 90, cuda) == 1000 // 10
    assert peers_together(10, 30, cpu) == 500 // (10 + 30)
    assert peers_together(10, 490, cpu) == 4
    assert peers_together(500, 0, cpu) == 2  # and never more than memory holds
    assert peers_together(5000, 0, cuda) == 1
    assert peers_together(0, 0, cuda) == 1000


def test_what_one_peer_holds_is_no_part_of_what_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(held: int, weights: int, device: torch.device) -> int:
        seen.append((held, weights))
        return 1

    monkeypatch.setattr(memory, "peers_together", watched)
    for count in (2, 6):  # a batch of all peers' samples is one block of memory
        data = TinyData(batch_size=4)  # everybody has more than that
        fit(Cohort({"eyes": Fleet(Eye, count)}, CLASSES, vectorize="always"), data=data, max_epochs=1)
    assert seen[0] == seen[1]
    assert all(number > 0 for number in seen[0])


def test_no_chunk_of_nobody() -> None:
    with pytest.raises(ConfigError, match="peers_per_chunk must be at least 1, not 0"):
        Cohort({"eyes": Fleet(Eye, 3)}, CLASSES, peers_per_chunk=0)
