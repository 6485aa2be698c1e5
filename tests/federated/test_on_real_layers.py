"""Federated corrections on students with normalisation, random layers and frozen parts, beside knowledge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAvg, FedLin, FedShuffle, Gossip, Mime, Scaffold
from mmkd.functional.trees import Tree
from mmkd.knowledge import SharedLogits
from mmkd.participation import Trace
from mmkd.topology import Complete, Star
from tests.tiny import CLASSES, Eye, TinyData, fit, fleets, schedule, sgd

CAMERAS = ["cameras/0", "cameras/1", "cameras/2"]


def run(aggregation: Any, topology: Any = None, **kwargs: Any) -> tuple[Cohort, DecentralizedCallback]:
    students = kwargs.pop("fleets", None) or fleets(optimizer=sgd(0.05))
    cohort = Cohort(students, CLASSES, vectorize=kwargs.pop("vectorize", "always"))
    callback = DecentralizedCallback(
        kwargs.pop("knowledge", None), aggregation, topology or Star(),
        schedule(**{"rounds_per_epoch": 1, **kwargs.pop("schedule", {})}), participation=kwargs.pop("participation", None),
    )  # fmt: skip
    fit(cohort, callback, kwargs.pop("data", None), **{"max_epochs": 1, **kwargs})
    return cohort, callback


class Spy:
    """Records by how much ``correct`` moved gradients, and what they were, step by step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[Tree, Tree]] = []
        self.offsets: list[Tree] = []

    def correct(self, g: Tree, rows: Tensor, round: Any) -> Tree:
        before = {name: leaf.clone() for name, leaf in g.items()}
        after = super().correct(g, rows, round)  # type: ignore[misc]
        factor = torch.ones(len(rows))
        if isinstance(self, FedLin):
            factor = round.steps[rows].float()
        if isinstance(self, FedShuffle):
            factor = 1 / round.portions().float()
        moved = {n: leaf * factor.view(-1, *[1] * (leaf.dim() - 1)) - before[n] for n, leaf in after.items()}
        self.seen.append((before, moved))
        self.offsets.append({n: leaf.clone() for n, leaf in self.state.get("offset", {}).items()})
        return after


class SpiedMime(Spy, Mime): ...


class SpiedLin(Spy, FedLin): ...


class SpiedScaffold(Spy, Scaffold): ...


class SpiedShuffle(Spy, FedShuffle): ...


@pytest.mark.parametrize(
    ("aggregation", "vectorize"),
    [(Scaffold("full"), "always"), (Mime(), "never"), (FedLin(), "always"), (FedShuffle(0.3), "never")],
    ids=lambda a: a if isinstance(a, str) else type(a).__name__,
)
def test_a_remainder_of_one_sample_is_no_batch(aggregation: Any, vectorize: Any) -> None:
    """Fifty samples in batches of 49: normalisation cannot take the fiftieth alone."""
    data = TinyData(batch_size=49)
    run(aggregation, data=data, vectorize=vectorize, schedule={"local_steps": None, "local_epochs": 1})


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_a_cluster_that_is_part_of_a_fleet_draws_the_same_dropout(vectorize: Any) -> None:
    """Where all stand at x, g(y; z) - g(x; z) + c is c for every peer, random layers or not."""
    among = {"a": ["cameras/0", "cameras/2"], "b": ["microphones/0", "microphones/1"]}
    students = fleets(optimizer=sgd(0.05), drop=0.5)
    _, callback = run(SpiedMime("sgd", among=among), vectorize=vectorize, fleets=students)
    for collective in callback.coordinator.federations:
        before, moved = collective.aggregation.seen[0]  # type: ignore[attr-defined]
        for name, leaf in before.items():
            c = leaf + moved[name]
            torch.testing.assert_close(c[0], c[1], rtol=1e-4, atol=1e-6)
        assert max(float((leaf[0] - leaf[1]).abs().max()) for leaf in before.values()) > 1e-3


EPOCH: dict[str, Any] = {"local_steps": None, "local_epochs": 1}
ONE: dict[str, Any] = {"local_steps": 1}


@pytest.mark.parametrize(
    ("aggregation", "work"),
    [(lambda: SpiedMime("sgd"), ONE), (SpiedLin, ONE), (lambda: SpiedShuffle(0.4), EPOCH)],
    ids=["mime", "fedlin", "fedshuffle-mvr"],
)
def test_corrections_count_as_much_as_the_private_loss(aggregation: Any, work: Any) -> None:
    """A step descends alpha times the private loss, so alpha times its correction takes the drift out."""
    moved = []
    for alpha in (0.8, 0.2):
        timing = {**work, "knowledge_every": 1}
        _, callback = run(aggregation(), knowledge=SharedLogits(alpha=alpha), schedule=timing)
        moved.append(callback.coordinator.federations[0].aggregation.seen[0][1])  # type: ignore[attr-defined]
    for name, much in moved[0].items():
        torch.testing.assert_close(much, 4 * moved[1][name], rtol=1e-3, atol=1e-5)
    assert max(float(leaf.abs().max()) for leaf in moved[0].values()) > 1e-2


@pytest.mark.parametrize(("controls", "share"), [("full", 0.2), ("mean", 1.0)])
def test_scaffold_scales_private_controls_alone(controls: Any, share: float) -> None:
    """Option I's controls are private gradients; the mean ones hold the whole gradient, knowledge included."""
    timing = {"knowledge_every": 1}
    spied = SpiedScaffold(controls)
    _, callback = run(spied, knowledge=SharedLogits(alpha=0.2), schedule=timing, max_epochs=2)
    aggregation: Any = callback.coordinator.federations[0].aggregation
    _, moved = aggregation.seen[7]  # the first step of the second round
    for name, leaf in moved.items():
        torch.testing.assert_close(leaf, share * aggregation.offsets[7][name], rtol=1e-3, atol=1e-5)
    assert max(float(leaf.abs().max()) for leaf in moved.values()) > 1e-2


def test_rates_of_zero_beside_others() -> None:
    """A peer that joins late warms up from 0 while others are at full rate, vectorised or not."""

    def warm(optimizer: Any) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: min(1.0, step / 10))

    states = []
    for vectorize in ("always", "never"):
        students = fleets(optimizer=sgd(0.05), scheduler=warm, drop=0.0)
        cohort, _ = run(
            FedAvg(),
            participation=Trace({"cameras/1": [[1, 9]]}),
            vectorize=vectorize,
            fleets=students,
            max_epochs=3,
        )
        states.append(cohort.axis.weights(CAMERAS, buffers=False))
    for name, leaf in states[0].items():
        torch.testing.assert_close(leaf, states[1][name], rtol=1e-4, atol=1e-6)


def test_statistics_are_averaged_as_weights_are() -> None:
    """On a complete graph Metropolis weights are uniform, whatever peers own."""
    own, _ = run(Gossip(buffers="local"), Complete())
    mixed, _ = run(Gossip(), Complete())
    name = "net.1.running_mean"
    before, after = (c.axis.weights(CAMERAS, buffers=True)[name] for c in (own, mixed))
    torch.testing.assert_close(after, before.mean(0).expand_as(after))
    owned = torch.tensor([1.0, 2, 3]) / 6
    assert (after[0] - (owned[:, None] * before).sum(0)).abs().max() > 1e-3


def test_who_sits_out_neither_speaks_nor_hears_knowledge() -> None:
    absent = Trace({"cameras/1": [[5, 9]]})
    knowledge = SharedLogits(samples="all")
    _, callback = run(FedAvg(), knowledge=knowledge, participation=absent, max_epochs=3)
    logits = [e for e in callback.ledger.entries() if e.kind == "logits"]
    assert logits
    assert not any("cameras/1" in (e.sender, e.receiver) for e in logits)
    weights = [e for e in callback.ledger.entries() if e.kind == "weights" and "cameras/1" in e]
    assert [e.direction for e in weights] == ["down"]  # it gets what the others made, when all is over


def test_frozen_parameters_stay_at_home() -> None:
    class Frozen(Eye):
        def __init__(self, num_classes: int, **kwargs: Any) -> None:
            super().__init__(num_classes, **kwargs)
            self.net[0].requires_grad_(False)

    students = {"cameras": Fleet(lambda n: Frozen(n, optimizer=sgd(0.05)), 3)}
    for aggregation in (FedAvg(), Mime("sgd"), Scaffold()):
        cohort, callback = run(aggregation, fleets=students)
        names = cohort.axis.weights(CAMERAS, buffers=True)
        assert "net.0.weight" not in names
        assert "net.1.weight" in names
        floats = sum(leaf[0].numel() for leaf in names.values())
        entry = next(e for e in callback.ledger.entries() if e.kind == "weights")
        assert entry.bytes == 4 * floats
