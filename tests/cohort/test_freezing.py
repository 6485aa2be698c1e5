"""What is frozen may thaw while a cohort trains, and tied tensors are one: both ways of training agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import Tensor, nn

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAvg, Gossip, Scaffold
from mmkd.participation import Sampled
from mmkd.topology import Complete, Star
from mmkd.types import ConfigError
from tests.grids import pairwise
from tests.tiny import CLASSES, Eye, Save, TinyDataDouble, fit, schedule, sgd


class Frozen(Eye):
    """Its first layer is frozen at first."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, drop=0.0, **kwargs)
        self.net[0].requires_grad_(False)


class Turn(Callback):
    """Freezes or thaws parameters whose names contain a word, of those peers that are named, from an epoch on."""

    def __init__(self, epoch: int, word: str, learns: bool, peer: str = "") -> None:
        self.epoch, self.word, self.learns, self.peer = epoch, word, learns, peer

    def on_train_batch_start(self, trainer: Any, cohort: Any, *args: Any) -> None:
        if trainer.current_epoch >= self.epoch:
            for group in cohort.groups:
                for student, name in zip(group.students(), group.names, strict=False):
                    for n, p in student.named_parameters():
                        if self.word in n and self.peer in name:
                            p.requires_grad_(self.learns)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def trained(vectorize: Any, optimizer: Any, coordinator: Any = None, *turns: Turn, **kwargs: Any) -> Cohort:
    cohort = Cohort(
        {"cameras": Fleet(lambda n: Frozen(n, optimizer=optimizer), 3)},
        CLASSES,
        vectorize=vectorize,
        compile=kwargs.pop("compile", "never"),
    ).double()
    turns = turns or (Turn(1, "net.0", True), Turn(2, "main", False))
    extra = [*turns, *kwargs.pop("extra", ())]
    callback = coordinator or DecentralizedCallback(schedule=schedule(rounds_per_epoch=1))
    fit(cohort, callback, TinyDataDouble(batch_size=16), extra=extra, **kwargs)
    return cohort


def same(a: Cohort, b: Cohort, tolerance: float) -> None:
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(tensor, b.state_dict()[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("optimizer", [sgd(0.05, momentum=0.9), adam], ids=["SGD", "Adam"])
def test_thawing_and_freezing_are_the_same_in_every_way_and_resume(optimizer: Any, tmp_path: Path) -> None:
    """The first layer from the second epoch on, the last up to the third; vectorised, recorded, resumed."""
    alone = trained("never", optimizer)
    begin = Cohort({"cameras": Fleet(lambda n: Frozen(n), 3)}, CLASSES, vectorize="never").double()
    moved = (
        alone.state_dict()["peers.cameras/0.net.0.weight"]
        - begin.state_dict()["peers.cameras/0.net.0.weight"]
    )
    assert float(moved.abs().max()) > 1e-3
    same(alone, trained("always", optimizer, extra=[Save(tmp_path / "run.ckpt", 5)]), 1e-10)
    same(alone, trained("always", optimizer, compile="record"), 1e-10)
    # Blocks are of three ticks of seven: the fifth is in the second epoch, after the thaw.
    thawed = Turn(1, "net.0", True), Turn(2, "main", False)
    resumed = trained("always", optimizer, None, *thawed, ckpt_path=tmp_path / "run.ckpt")
    same(alone, resumed, 1e-10)


@pairwise(vectorize=["always", "never"], method=[(FedAvg, Star), (Gossip, Complete)])
def test_what_has_thawed_travels(vectorize: Any, method: Any) -> None:
    aggregation, topology = method
    coordinator = DecentralizedCallback(
        None,
        aggregation(weights="uniform") if aggregation is FedAvg else aggregation(),
        topology(),
        schedule(rounds_per_epoch=1),
    )
    state = trained(vectorize, sgd(0.05), coordinator, Turn(1, "net.0", True), max_epochs=2).state_dict()
    sent = coordinator.ledger
    for n in ("net.0.weight", "main.weight"):
        torch.testing.assert_close(
            state[f"peers.cameras/0.{n}"], state[f"peers.cameras/2.{n}"], rtol=0, atol=1e-12
        )
    first, second = (
        sum(e.bytes for e in sent.entries() if e.kind == "weights" and e.round == r) for r in (0, 1)
    )
    layer = 8 * (8 * 16 + 16)
    copies = 6  # of three peers, up and down through a hub or to two others
    assert second - first == layer * copies


def test_an_aggregation_that_remembers_parameters_refuses_others() -> None:
    coordinator = DecentralizedCallback(None, Scaffold(), Star(), schedule(rounds_per_epoch=1))
    with pytest.raises(ConfigError, match=r"'net.0.bias' was frozen or thawed, and Scaffold remembers 'c'"):
        trained("always", sgd(0.05), coordinator, Turn(1, "net.0", True))


def test_students_of_a_fleet_freeze_alike() -> None:
    coordinator = DecentralizedCallback(None, FedAvg(), Star(), schedule(rounds_per_epoch=1))
    with pytest.raises(ConfigError, match="have frozen different parameters"):
        trained("never", sgd(0.05), coordinator, Turn(1, "net.0", True, "cameras/1"))


# --- what others see between batches ---------------------------------------------------------------


class Average(Callback):
    """An average over batches as most people write it, and the same of what checkpoints hold."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self.true: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, cohort: Any, *args: Any) -> None:
        self.seen.append({n: p.detach().clone() for n, p in cohort.named_parameters()})
        self.true.append(dict(cohort.state_dict()))


def test_between_batches_parameters_hold_all_peers() -> None:
    """Though two of four take part in a round: row i is the i-th peer."""
    cohort = Cohort(
        {"cameras": Fleet(lambda n: Eye(n, optimizer=sgd(0.05)), 4)}, CLASSES, init="own", vectorize="always"
    )
    seen = Average()
    coordinator = DecentralizedCallback(None, FedAvg(), Star(), schedule(), participation=Sampled(count=2))
    coordinator.method.aggregation.among = "all"  # type: ignore[union-attr]
    fit(cohort, coordinator, extra=[seen], max_epochs=2)
    for batch, true in zip(seen.seen, seen.true, strict=True):
        (weight,) = [p for n, p in batch.items() if n.endswith("main.weight")]
        for i in range(4):
            assert torch.equal(weight[i], true[f"peers.cameras/{i}.main.weight"])


class Bare(Eye):
    """Without normalisation, whose statistics StochasticWeightAveraging counts in a way that ``vmap`` cannot."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.net[1] = nn.Identity()


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_averages_of_lightning_run_where_peers_sit_out(vectorize: Any) -> None:
    for average in (
        EMAWeightAveraging(decay=0.5, use_buffers=False),
        StochasticWeightAveraging(0.05, swa_epoch_start=1),
    ):
        cohort = Cohort(
            {"cameras": Fleet(lambda n: Bare(n, optimizer=sgd(0.05)), 4)}, CLASSES, vectorize=vectorize
        )
        coordinator = DecentralizedCallback(
            None, FedAvg(), Star(), schedule(), participation=Sampled(count=2)
        )
        fit(cohort, coordinator, extra=[average], max_epochs=3)
        assert all(bool(t.isfinite().all()) for t in cohort.state_dict().values())


# --- tied tensors ----------------------------------------------------------------------------------


class Tied(Eye):
    """Two layers share one matrix, which a checkpoint saves under both names."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, drop=0.0, **kwargs)
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight

    def embed(self, x: Tensor) -> Tensor:
        return self.two(self.one(super().embed(x)).relu())


def test_a_tied_matrix_is_one() -> None:
    """Both ways learn the same, send it once, and take up what the other has saved."""
    runs = {}
    for vectorize in ("never", "always"):
        cohort = Cohort(
            {"cameras": Fleet(lambda n: Tied(n, optimizer=sgd(0.05)), 2)}, CLASSES, vectorize=vectorize
        ).double()  # type: ignore[arg-type]
        coordinator = DecentralizedCallback(
            None, FedAvg(buffers="local"), Star(), schedule(rounds_per_epoch=1)
        )
        fit(cohort, coordinator, TinyDataDouble(batch_size=16), max_epochs=1)
        student = cohort.student("cameras/0")
        assert coordinator.ledger.total("weights") == 2 * 2 * 8 * sum(p.numel() for p in student.parameters())
        assert student.one.weight is student.two.weight  # type: ignore[union-attr]
        runs[vectorize] = cohort
    same(runs["never"], runs["always"], 1e-10)
    for name in ("one.weight", "two.weight"):
        assert f"peers.cameras/0.{name}" in runs["always"].state_dict()
    for one, other in (("never", "always"), ("always", "never")):
        fresh = Cohort({"cameras": Fleet(lambda n: Tied(n), 2)}, CLASSES, init="own", vectorize=one).double()  # type: ignore[arg-type]
        fresh.load_state_dict(runs[other].state_dict())
        same(fresh, runs[other], 0.0)
