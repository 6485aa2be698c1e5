"""A recorded step is the step: same numbers, same random layers, same statistics."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAvg, Scaffold
from mmkd.knowledge import SharedLogits
from mmkd.participation import Sampled
from mmkd.topology import Star
from tests.grids import each_once
from tests.tiny import CLASSES, Eye, fit, fleets, schedule, sgd


def states(compile: Any, callback: DecentralizedCallback | None, **kwargs: Any) -> dict[str, Tensor]:
    cohort = Cohort(fleets(prior_correction=1.0), CLASSES, vectorize="always", compile=compile, **kwargs)
    fit(cohort, callback, max_epochs=1)
    return cohort.state_dict()


def callbacks() -> dict[str, DecentralizedCallback | None]:
    return {
        "alone": None,
        "distilling": DecentralizedCallback(SharedLogits(), None, Star(), schedule()),
        "both": DecentralizedCallback(SharedLogits(), FedAvg(), Star(), schedule()),
        "half": DecentralizedCallback(None, FedAvg(), Star(), schedule(), participation=Sampled(count=1)),
    }


@each_once(
    name=list(callbacks()),
    more={"whole": {}, "clipped": {"clip": 0.5}, "in parts": {"accumulate": 2}},
)
def test_replays_give_the_same_weights_and_statistics(name: str, more: dict[str, Any]) -> None:
    """Bit for bit, dropout, BatchNorm and its counters included."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be recorded.*")
        recorded = states("record", callbacks()[name], **more)
    plain = states("never", callbacks()[name], **more)
    assert plain.keys() == recorded.keys()
    for key, tensor in plain.items():
        assert torch.equal(tensor, recorded[key]), key


def test_corrections_read_the_same_gradients() -> None:
    def run(compile: Any) -> dict[str, Tensor]:
        peers = {"cameras": Fleet(lambda n: Eye(n, optimizer=sgd(0.1)), 3)}
        cohort = Cohort(peers, CLASSES, vectorize="always", compile=compile)
        fit(cohort, DecentralizedCallback(None, Scaffold(), Star(), schedule()), max_epochs=1)
        return cohort.state_dict()

    plain, recorded = run("never"), run("record")
    assert all(torch.equal(tensor, recorded[key]) for key, tensor in plain.items())


class Jumpy(Eye):
    """Cannot be recorded, though it can be vectorised: it looks whether it is being traced."""

    def embed(self, x: Tensor) -> Tensor:
        if torch.fx.experimental.proxy_tensor.get_proxy_mode() is not None:
            raise RuntimeError("aten.my_op: not while somebody looks")
        return super().embed(x)


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once() -> None:
    def run(compile: Any) -> dict[str, Tensor]:
        cohort = Cohort({"eyes": Fleet(Jumpy, 3)}, CLASSES, vectorize="always", compile=compile)
        fit(cohort, max_epochs=1)
        return cohort.state_dict()

    with pytest.warns(UserWarning, match=r"cannot be recorded .*aten\.my_op: not while") as caught:
        recorded = run("record")
    assert len([w for w in caught if "cannot be recorded" in str(w.message)]) == 1
    plain = run("never")
    assert all(torch.equal(tensor, recorded[key]) for key, tensor in plain.items())


@pytest.mark.parametrize("late", [False, True])
def test_what_cannot_be_compiled_is_replayed_and_says_so_once(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise RuntimeError("no compiler here\nand a page of more")

    monkeypatch.setattr(torch, "compile", (lambda graph: refuse) if late else refuse)

    def run(compile: Any) -> dict[str, Tensor]:
        cohort = Cohort({"eyes": Fleet(Eye, 3)}, CLASSES, vectorize="always", compile=compile)
        fit(cohort, max_epochs=1)
        return cohort.state_dict()

    with pytest.warns(UserWarning, match="cannot be compiled and is replayed: no compiler here$") as caught:
        compiled = run("inductor")
    assert len([w for w in caught if "cannot be compiled" in str(w.message)]) == 1
    replayed = run("record")
    assert all(torch.equal(tensor, compiled[key]) for key, tensor in replayed.items())


class Keeps(FedAvg):
    """Corrects nothing, and keeps the gradients that it has seen, with copies of them."""

    corrects = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __deepcopy__(self, memo: Any) -> Keeps:
        return self  # a cluster works with a copy, and this one is looked at afterwards

    def correct(self, gradients: Any, rows: Tensor, round: Any) -> Any:
        self.seen += [(g, g.clone()) for g in gradients.values()]
        return gradients


@pytest.mark.parametrize("way", [{"compile": "record"}, {"peers_per_chunk": 1}, {}])
def test_gradients_that_somebody_keeps_are_not_written_over(way: dict[str, Any]) -> None:
    keeps = Keeps()
    cohort = Cohort(
        {"cameras": Fleet(lambda n: Eye(n, optimizer=sgd(0.1)), 3)}, CLASSES, vectorize="always", **way
    )
    fit(cohort, DecentralizedCallback(None, keeps, Star(), schedule()), max_epochs=1)
    assert len(keeps.seen) > 2
    assert all(torch.equal(kept, copied) for kept, copied in keeps.seen)
