"""HeteroFL by hand, element by element, on students of four widths; and that equal widths make it FedAvg.

Every element of a ``Patch`` has a parabola of its own that no other element touches, so tau gradient steps at
rate e carry it from x to b + (1 - e a)^tau (x - b), whatever else the student holds.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.encoding import TopK
from mmkd.federated import FedAvg, HeteroFL
from mmkd.knowledge import SharedLogits
from mmkd.participation import Sampled, Trace
from mmkd.schedule import Schedule
from mmkd.students import Student
from mmkd.topology import Complete, Ring, Star
from mmkd.transport import LocalTransport
from mmkd.types import Batch, Classes, ConfigError, Predictions
from tests.federated.test_closed_forms import BOTH
from tests.grids import pairwise
from tests.tiny import CLASSES, Eye, fit, schedule, sgd, trainer

RATE, ROUNDS = 0.1, 6
SHAPES = {"tall": (4, 2), "large": (4, 3), "wide": (2, 3), "small": (1, 1)}
"""Rows and columns; of ``tall`` and ``wide`` neither is a slice of the other."""
COUNTS = {"tall": 1, "large": 1, "wide": 1, "small": 2}
PEERS = ["large/0", "small/0", "small/1", "tall/0", "wide/0"]
STEPS = dict(zip(PEERS, [1, 3, 2, 5, 4], strict=True))
SIZES = dict(zip(PEERS, [2, 6, 4, 8, 10], strict=True))
FLOAT = 8
"""Bytes."""


class Patch(Student):
    """A matrix, a column, a number, and a buffer that counts a column of what it has seen.

    A sample is (a, b), ``[2, 4, 3]``; a student reads the leading slices of both.
    """

    modalities = ("patch",)

    def __init__(self, rows: int, columns: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.matrix = nn.Parameter(torch.randn(rows, columns, dtype=torch.float64))
        self.column = nn.Parameter(torch.randn(rows, dtype=torch.float64))
        self.number = nn.Parameter(torch.randn((), dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(rows, dtype=torch.float64))

    def predict(self, x: Tensor) -> Predictions:
        at = self.number.expand(len(x), 2)
        return Classes(at, at.new_empty(0, len(x), 2), at)

    def private_loss(self, batch: Batch) -> Tensor:
        a, b = batch.x.unbind(1)
        rows, columns = self.matrix.shape[-2:]
        self.seen.add_(b[:, :rows, 0].mean(0))
        loss = a[:, :rows, :columns] * (self.matrix - b[:, :rows, :columns]) ** 2 / 2
        side = a[:, :rows, 0] * (self.column - b[:, :rows, 0]) ** 2 / 2
        return (loss.sum((1, 2)) + side.sum(1) + a[:, 0, 0] * (self.number - b[:, 0, 0]) ** 2 / 2).mean()


class Patches(PeerDataModule):
    """Each peer owns a number of equal samples."""

    num_classes = 2
    modalities = ("patch",)

    def private(self, peer: str, split: str) -> Any:
        n = SIZES.get(peer, 3)
        return Samples(world().get(peer, world()["large/0"]).expand(n, 2, 4, 3), torch.zeros(n))

    def public(self, split: str) -> Any:
        return PublicSamples({"patch": world()["large/0"][None]})


def world() -> dict[str, Tensor]:
    """The sample of each peer."""
    stream = torch.Generator().manual_seed(1)
    drawn = torch.rand(len(PEERS), 2, 4, 3, generator=stream, dtype=torch.float64)
    return {name: torch.stack([0.5 + a, 4 * b - 2]) for name, (a, b) in zip(PEERS, drawn, strict=True)}


class Run:
    """A run, the weights before it, and who was there in which round."""

    def __init__(
        self, aggregation: Any, *, rate: float = RATE, rounds: int = ROUNDS, vectorize: Any = "always",
        topology: Any = None, participation: Any = None, init: Any = "shared", transport: Any = None,
        counts: dict[str, int] = COUNTS,
    ) -> None:  # fmt: skip
        def recipe(shape: tuple[int, int]) -> Callable[[int], Student]:
            return lambda n: Patch(*shape, optimizer=sgd(rate))

        fleets = {name: Fleet(recipe(SHAPES[name]), count) for name, count in counts.items()}
        self.cohort = Cohort(fleets, 2, vectorize=vectorize, init=init)
        self.before = self.state()
        self.callback = DecentralizedCallback(
            None, aggregation, topology or Star(), Schedule(local_steps=STEPS if counts == COUNTS else 2),
            transport, participation,
        )  # fmt: skip
        data = Patches(batch_size=64, drop_last=False)
        trainer(self.callback, max_epochs=rounds, limit_val_batches=0).fit(self.cohort, datamodule=data)
        self.rounds = rounds

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by peer and name."""
        return {
            name: {n: t.clone() for n, t in self.cohort.student(name).state_dict().items()}
            for name in self.cohort.names
        }

    @property
    def present(self) -> list[list[str]]:
        """Who was there."""
        attendance = self.callback._attendance
        if attendance is None:
            return [PEERS] * self.rounds
        return [sorted(attendance.present(r)) for r in range(self.rounds)]


def own(peer: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a peer's tensors."""
    rows, columns = SHAPES[peer.split("/")[0]]
    return {"matrix": (rows, columns), "column": (rows,), "number": (), "seen": (rows,)}


def elements(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every index."""
    return list(product(*map(range, shape)))


def by_hand(before: dict[str, Tensor], present: list[list[str]], p: dict[str, float]) -> dict[str, Any]:
    """The hub's weights after some rounds, one element after the other."""
    x = {(n, e): float(t[e]) for n, t in before.items() for e in elements(tuple(t.shape))}
    samples = world()
    for names in present:
        heard: dict[Any, list[tuple[float, float]]] = {}
        for name in names:
            for n, shape in own(name).items():
                for e in elements(shape):
                    a, b = (float(part[(*e, 0, 0)[:2]]) for part in samples[name])
                    r = (1 - RATE * a) ** STEPS[name]
                    y = x[n, e] + STEPS[name] * b if n == "seen" else b + r * (x[n, e] - b)
                    heard.setdefault((n, e), []).append((p[name], y))
        for where, said in heard.items():
            x[where] = sum(w * y for w, y in said) / sum(w for w, _ in said)
    return x


def agrees(state: dict[str, dict[str, Tensor]], x: dict[Any, float]) -> None:
    """Every peer holds its slice of x."""
    for name, tensors in state.items():
        for n, tensor in tensors.items():
            assert tuple(tensor.shape) == own(name)[n]
            for e in elements(tuple(tensor.shape)):
                assert abs(float(tensor[e]) - x[n, e]) < 1e-12, (name, n, e)


# --- by hand ---------------------------------------------------------------------------------------

WEIGHTS: dict[str, Any] = {
    "samples": SIZES,
    "uniform": dict.fromkeys(PEERS, 1),
    "given": dict(zip(PEERS, [1.0, 0.5, 3.0, 2.0, 4.0], strict=True)),
}


@pairwise(
    vectorize=["always", "never"], weights=list(WEIGHTS), participation={"all": None, "two": Sampled(count=2)}
)
def test_every_element_is_the_mean_of_those_who_were_here_and_hold_it(
    vectorize: str, weights: str, participation: Any
) -> None:
    given = WEIGHTS[weights] if weights == "given" else weights
    out = Run(HeteroFL(weights=given), vectorize=vectorize, participation=participation)
    if participation is not None:
        assert len({tuple(names) for names in out.present}) > 2
        assert any("large/0" not in names for names in out.present)  # something stays as the hub has it
    x = by_hand(out.before["large/0"], out.present, WEIGHTS[weights])
    agrees(out.state(), x)
    hub = out.callback.coordinator.federations[0].hub
    agrees({"large/0": {n: leaf[0] for n, leaf in hub.items()}}, x)


def test_what_nobody_holds_in_a_round_stays_as_the_hub_has_it() -> None:
    """The widest is there in round 0 alone, and nobody else knows the last column of the last rows."""
    come = {"large/0": [[0, 0]], "small/0": [[0, 1]], "tall/0": [[1, 2]], "wide/0": [[2, 2]]}
    out = Run(HeteroFL(), rounds=3, participation=Trace(come))
    first = Run(HeteroFL(), rounds=1, participation=Trace(come))
    after, then = (run.state()["large/0"]["matrix"] for run in (out, first))
    assert torch.equal(after[2:, 2], then[2:, 2])
    assert not torch.equal(then[2:, 2], out.before["large/0"]["matrix"][2:, 2])
    agrees(out.state(), by_hand(out.before["large/0"], out.present, SIZES))


def test_who_weighs_nothing_changes_nothing() -> None:
    """What only the widest holds stays then, too."""
    out = Run(HeteroFL(weights={**dict.fromkeys(PEERS, 1.0), "large/0": 0.0}))
    after = out.state()["large/0"]["matrix"]
    assert torch.equal(after[2:, 2], out.before["large/0"]["matrix"][2:, 2])
    assert not torch.equal(after[2:, 1], out.before["large/0"]["matrix"][2:, 1])


@BOTH
def test_statistics_may_stay_at_home(vectorize: str) -> None:
    out = Run(HeteroFL(buffers="local"), vectorize=vectorize, participation=Sampled(count=3))
    rounds = {name: sum(name in names for names in out.present) for name in PEERS}
    x = by_hand(out.before["large/0"], out.present, SIZES)
    for name, tensors in out.state().items():
        column = world()[name][1, : len(tensors["seen"]), 0]
        torch.testing.assert_close(tensors.pop("seen"), rounds[name] * STEPS[name] * column)
        agrees({name: tensors}, x)


@BOTH
def test_nothing_moves_without_local_work_and_all_begin_with_slices_of_the_widest(vectorize: str) -> None:
    """One or two of two equal peers, uniformly weighed: means of equals are exact."""
    counts = {"small": 1, "large": 1}
    out = Run(HeteroFL(weights="uniform"), rate=0.0, counts=counts, vectorize=vectorize)
    widest = out.before["large/0"]
    assert not torch.equal(out.before["small/0"]["column"], widest["column"][:1])  # a draw of its own
    for tensors in out.state().values():
        for n in ("matrix", "column", "number"):
            assert torch.equal(tensors[n], widest[n][tuple(map(slice, tensors[n].shape))])


def test_a_wire_changes_nothing() -> None:
    here, there = (
        Run(HeteroFL(), participation=Sampled(count=2), transport=LocalTransport(serialise=s))
        for s in (False, True)
    )
    assert here.callback.ledger == there.callback.ledger
    for name, tensors in here.state().items():
        assert all(torch.equal(t, there.state()[name][n]) for n, t in tensors.items())


# --- bytes -----------------------------------------------------------------------------------------


def cost(peer: str) -> int:
    """A matrix, a column, a number and a buffer."""
    rows, columns = SHAPES[peer.split("/")[0]]
    return FLOAT * (rows * columns + rows + 1 + rows)


def test_a_peer_pays_for_its_own_slice() -> None:
    ledger = Run(HeteroFL()).callback.ledger
    found = {(e.sender, e.receiver, e.round): e.bytes for e in ledger.entries() if e.kind == "weights"}
    expected = {}
    for name, r in product(PEERS, range(ROUNDS)):
        expected |= {(name, "hub", r): cost(name), ("hub", name, r): cost(name)}
    assert found == expected
    assert cost("large/0") == 168
    assert cost("small/0") == 32


def test_a_sampled_round_costs_the_slices_of_those_who_are_there() -> None:
    """Two send in each round; those of the next hear how it ended, and after the last all do."""
    out = Run(HeteroFL(), participation=Sampled(count=2))
    up = sum(cost(name) for names in out.present for name in names)
    down = sum(cost(name) for names in out.present[1:] for name in names) + sum(map(cost, PEERS))
    assert out.callback.ledger.by_kind()["weights"] == {"up": up, "down": down}


# --- equal widths ----------------------------------------------------------------------------------


def eyes(*dims: int, **kwargs: Any) -> dict[str, Fleet]:
    """A fleet of two for each width."""

    def recipe(dim: int) -> Callable[[int], Student]:
        return lambda n: Eye(n, dim=dim, **kwargs)

    return {f"eyes{i}": Fleet(recipe(dim), 2) for i, dim in enumerate(dims)}


@pairwise(
    vectorize=["always", "never"],
    participation={"all": None, "two": Sampled(count=2)},
    weights=["samples", "uniform"],
)
def test_equal_widths_are_fedavg_bit_for_bit(vectorize: Any, participation: Any, weights: Any) -> None:
    """Normalisation, dropout, Adam and a ledger among them."""
    ends = []
    for kind in (HeteroFL, FedAvg):
        cohort = Cohort(eyes(16, 16, 16, 16), CLASSES, vectorize=vectorize)
        callback = DecentralizedCallback(
            None, kind(weights=weights), Star(), schedule(local_steps=3), participation=participation
        )
        fit(cohort, callback, max_epochs=1)
        ends.append((cohort, callback))
    (one, left), (two, right) = ends
    for name in one.names:
        pair = one.student(name).state_dict(), two.student(name).state_dict()
        assert all(torch.equal(pair[0][n], pair[1][n]) for n in pair[0])
    assert left.ledger == right.ledger
    assert one.metrics == two.metrics


# --- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"topology": Ring()}, "choose topology Star"),
        ({"topology": Complete()}, "choose topology Star"),
        ({"counts": {"large": 2, "small": 1}, "init": "own"}, "set model.init to shared"),
        ({"counts": {"tall": 1, "wide": 1}}, "of tall/0, wide/0 no student is the widest in everything"),
        ({"participation": Sampled(count=2, weighted=True)}, "both count sizes"),
    ],
)
def test_what_has_no_meaning_is_refused(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Run(HeteroFL(), **kwargs)


def test_compression_is_no_argument() -> None:
    with pytest.raises(TypeError, match="compression"):
        HeteroFL(compression=TopK(0.1))


def test_slices_have_no_one_voice() -> None:
    with pytest.raises(ConfigError, match="peers that hold slices differ: leave it out"):
        DecentralizedCallback(SharedLogits(samples="all"), HeteroFL(), Star(), schedule(), between=Complete())
