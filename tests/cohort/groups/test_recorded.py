"""A recorded step is the step: same numbers, same random layers, same statistics."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups import recorded as module
from mmkd.cohort.groups.recorded import Recorded
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_turned_recording_gives_gradients_that_lie_as_weights_do(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sum c (tanh(x V^T) W^T): c^T h and d^T x, where h = tanh(x V^T) and d = c W (1 - h^2).

    Turned or not, the factors of these products are the same, and each product of n samples is off by at
    most gamma = n u / (1 - n u) times that of magnitudes, where u is half an epsilon (Higham 2002, section 3.5).
    """
    peers, n = 3, 40
    sizes = {"x": (n, 7), "c": (n, 5), "first": (6, 7), "second": (5, 6)}
    stream = torch.Generator().manual_seed(0)
    drawn = {m: torch.randn(peers, *size, generator=stream, dtype=dtype) for m, size in sizes.items()}
    weights = {m: drawn[m] for m in ("first", "second")}

    def loss(p: Any, buffers: Any, x: Tensor, c: Tensor) -> Tensor:
        return (c * F.linear(F.linear(x, p["first"]).tanh(), p["second"])).sum()

    def gradients() -> dict[str, Tensor]:
        found = Recorded(loss, compile=False)(0, list(weights), weights, {}, drawn["x"], drawn["c"])
        assert found is not None
        return found[0]

    chosen = gradients()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_replayed", lambda *arguments: [])  # nothing differs
        turned = gradients()
    monkeypatch.setattr(module, "_turned", lambda graph: graph)
    plain = gradients()

    x, c, first, second = (drawn[m].double() for m in ("x", "c", "first", "second"))
    h = (x @ first.mT).tanh()
    d = (c @ second) * (1 - h.square())
    u, terms = torch.finfo(dtype).eps / 2, n + 1  # one for what the bound itself is off by
    gamma = terms * u / (1 - terms * u)
    for name, (left, right) in {"first": (d, x), "second": (c, h)}.items():
        assert turned[name].stride() == weights[name].stride() != plain[name].stride()
        off = (turned[name].double() - plain[name].double()).abs()
        assert (off <= 2 * gamma * left.abs().mT @ right.abs()).all()
        assert torch.equal(chosen[name], plain[name])
