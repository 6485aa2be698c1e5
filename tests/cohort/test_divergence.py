"""Who diverges is named before anything of it reaches others, and alone stops or sits out."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.divergence import LEAP, Divergence
from mmkd.cohort.groups.row_optimizer import CohortOptimizer
from mmkd.cohort.losses import Losses
from mmkd.coordination.speaking import finite_rows
from mmkd.federated import FedAvg, Gossip, Scaffold
from mmkd.knowledge import MultiHeadDistillation, SharedLogits
from mmkd.participation import Trace
from mmkd.schedule import Schedule
from mmkd.students import Classifier
from mmkd.topology import Ring, Star
from mmkd.types import ConfigError, DivergedError
from tests.grids import each_once, pairwise
from tests.tiny import CLASSES, FEATURES, Save, TinyData, fit, schedule, sgd

PEERS = ["eyes/0", "eyes/1", "eyes/2"]
METHODS: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "isolated": lambda: (None, None, None),
    "fedavg hub": lambda: (None, FedAvg(), Star()),
    "gossip ring": lambda: (None, Gossip(), Ring()),
    "shared logits hub": lambda: (SharedLogits(), None, Star()),
    "mhd ring": lambda: (MultiHeadDistillation(), None, Ring()),
    "scaffold": lambda: (None, Scaffold(), Star()),
}
SICK, TICKS = 2, 5
"""The tick in whose local step a peer falls ill, and how many there are."""


class Plain(Classifier):
    """A student without chance, whose numbers do not depend on who trains beside it."""

    modalities = ("image",)

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=4, heads=1, **kwargs)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.net = nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.ReLU())

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x)


def fall_ill(cohort: Cohort, name: str, how: str) -> None:
    """What goes wrong with one peer between its backward and its optimizer; its last loss was finite."""
    group, row = cohort.axis.locate(name)
    if how == "rate":
        group.optimizers()[row].param_groups[0]["lr"] *= 1e6
    elif how == "statistics":
        dict(group.tensors(row))["net.1.running_var"].fill_(torch.nan)
    else:
        group.load_gradients([row], {n: g + float(how) for n, g in group.gradients([row]).items()})


class Run:
    """A cohort that trains under a method with one local step a round, and what it held after each step."""

    def __init__(self, method: str, vectorize: Any, ill: str = "", how: str = "", **kwargs: Any) -> None:
        knowledge, aggregation, graph = METHODS[method]()
        fleet = Fleet(lambda n: Plain(n, optimizer=sgd(0.05)), len(PEERS))
        choice = kwargs.pop("on_divergence", "stop")
        self.cohort = Cohort({"eyes": fleet}, CLASSES, vectorize=vectorize, on_divergence=choice)
        self.held: list[dict[str, Tensor]] = []
        self.error: DivergedError | None = None
        when = schedule(local_steps=1, rounds_per_epoch=TICKS)
        away = kwargs.pop("participation", None)
        callback = DecentralizedCallback(knowledge, aggregation, graph, when, participation=away)
        first = kwargs.pop("first", 0)
        with self._watching(ill, how, first):
            try:
                fit(self.cohort, callback, TinyData(batch_size=16), max_epochs=1, **kwargs)
            except DivergedError as error:
                self.error = error

    @contextlib.contextmanager
    def _watching(self, ill: str, how: str, first: int) -> Iterator[None]:
        plain = CohortOptimizer.step

        def step(optimizer: Any, closure: Any = None) -> Any:
            if ill and first + len(self.held) == SICK:
                fall_ill(self.cohort, ill, how)
            found = plain(optimizer, closure)
            self.held.append(self.cohort.state_dict())
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CohortOptimizer, "step", step)
            yield


@functools.cache
def undisturbed(method: str, vectorize: str) -> Run:
    return Run(method, vectorize)


class Saved(Callback):
    """Saves a checkpoint after every step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.save_checkpoint(self.path)


def same(a: dict[str, Tensor], b: dict[str, Tensor], without: str, vectorize: str) -> bool:
    """Whether all others hold the same, bit for bit if each computes by itself.

    In a stack, who else is in it, and at which rate, decides how products are rounded: by 2^-24 each.
    """
    rounded = 2e-6 if vectorize == "always" else 0.0
    kept = {n: t for n, t in a.items() if f".{without}." not in n}
    return all(torch.allclose(t, b[n], rtol=rounded, atol=rounded) for n, t in kept.items())


@pairwise(
    method=list(METHODS), ill=PEERS, how=["nan", "inf", "rate", "statistics"], vectorize=["always", "never"]
)
def test_who_diverges_is_named_and_nobody_else_has_changed(
    method: str, ill: str, how: str, vectorize: Any, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    run, healthy = Run(method, vectorize, ill, how, extra=[Saved(path)]), undisturbed(method, vectorize)
    assert run.error is not None
    assert run.error.peer == ill
    for held, expected in zip(run.held, healthy.held, strict=False):
        assert same(held, expected, ill, vectorize)
    assert same(run.cohort.state_dict(), run.held[-1], ill, vectorize)  # and nothing of it has come since
    good = torch.load(path, weights_only=True)
    assert good["global_step"] == SICK
    assert all(bool(t.isfinite().all()) for t in good["state_dict"].values())


@each_once(method=list(METHODS), ill=PEERS, how=["nan", "rate"], vectorize=["always", "never"])
def test_a_peer_that_sits_out_is_absent_to_all_others(
    method: str, ill: str, how: str, vectorize: Any, tmp_path: Path
) -> None:
    """Bit for bit, as by participation; and so it is in a run that is resumed."""
    path = tmp_path / "last.ckpt"
    with pytest.warns(UserWarning, match=f"peer '{ill}' sits out from round") as told:
        run = Run(method, vectorize, ill, how, on_divergence="sit_out", extra=[Saved(path)])
    assert len([w for w in told if "sits out" in str(w.message)]) == 1
    assert run.error is None
    since = run.cohort.absent[ill].round
    expected = Run(method, vectorize, participation=Trace({ill: [[0, since - 1]]}))
    assert same(run.cohort.state_dict(), expected.cohort.state_dict(), ill, vectorize)
    assert set(run.cohort.metrics) == set(PEERS) - {ill}
    assert all(bool(t.isfinite().all()) for t in run.cohort.state_dict().values())


def test_a_run_in_which_somebody_sits_out_resumes(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.warns(UserWarning, match="sits out"):
        run = Run("gossip ring", "never", "eyes/1", "nan", on_divergence="sit_out", extra=[Save(path, 4)])
    again = Run("gossip ring", "never", on_divergence="sit_out", ckpt_path=path)
    assert len(again.held) == 1
    assert again.cohort.absent == run.cohort.absent
    assert same(again.cohort.state_dict(), run.cohort.state_dict(), "nobody", "never")
    with pytest.raises(ConfigError, match="'eyes/1' sits out in the saved run"):
        Run("gossip ring", "never", ckpt_path=path)


def test_where_nobody_is_left_the_run_ends() -> None:
    """A rate at which all leave in the first round."""
    fleet = Fleet(lambda n: Plain(n, optimizer=sgd(1e9)), 2)
    cohort = Cohort({"eyes": fleet}, CLASSES, vectorize="never", on_divergence="sit_out")
    callback = DecentralizedCallback(None, FedAvg(), Star(), schedule(local_steps=1))
    with (
        pytest.warns(UserWarning, match="sits out from round 0"),
        pytest.raises(DivergedError, match="all peers have diverged"),
    ):
        fit(cohort, callback)


def test_a_loss_that_is_no_number_is_told_by_its_step() -> None:
    class Mad(Plain):
        def private_loss(self, batch: Any) -> Tensor:
            return super().private_loss(batch) * torch.nan

    peers = {"eyes": Fleet(lambda n: Plain(n), 2), "mad": Fleet(lambda n: Mad(n), 1)}
    said = "peer 'mad/0' has diverged: its private loss is nan at its local step 0; lower its learning rate"
    with pytest.raises(DivergedError, match=said):
        fit(Cohort(peers, CLASSES, vectorize="never"))


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_a_last_step_that_ruins_a_peer_is_no_score(vectorize: Any) -> None:
    """Losses are those before a step; the square of such a weight is infinite, and itself it is not."""
    peers = {"eyes": Fleet(lambda n: Plain(n, optimizer=sgd(0.01)), 2, learning_rate_scale=[1.0, 1e28])}
    with pytest.raises(DivergedError, match="peer 'eyes/1'"):
        fit(
            Cohort(peers, CLASSES, vectorize=vectorize),
            DecentralizedCallback(schedule=schedule(local_steps=1, rounds_per_epoch=1)),
            max_epochs=1,
        )


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_a_leap_is_a_multiple_of_the_running_norm(vectorize: Any) -> None:
    """From look to look that at most doubles; and whoever is given great weights may hold them."""
    cohort = Cohort({"eyes": Fleet(lambda n: Plain(n), 2)}, CLASSES, vectorize=vectorize)
    losses, timetable = Losses(Schedule().timetable(dict.fromkeys(cohort.names, 1))), Schedule()
    divergence = Divergence("stop", cohort.axis, losses, timetable.timetable({"eyes/0": 1}))
    divergence.begin()
    start = {name: dict(cohort.student(name).state_dict()) for name in cohort.names}

    def grow(name: str, factor: float) -> None:
        for n, p in cohort.student(name).named_parameters():
            p.data.copy_(factor * start[name][n])

    start = {name: {n: t.clone() for n, t in own.items()} for name, own in start.items()}
    grow("eyes/0", 0.9 * LEAP)
    divergence.look(cohort.names, 0)  # the running norm is twice the first now
    grow("eyes/0", 1.9 * LEAP)
    divergence.look(cohort.names, 0)
    grow("eyes/0", 4.1 * LEAP)  # more than twice twice the first, though hardly twice what was seen last
    with pytest.raises(DivergedError, match=r"peer 'eyes/0' has diverged: .* is 31 times what it was"):
        divergence.look(cohort.names, 0)
    grow("eyes/0", 1.0)
    grow("eyes/1", 1.1 * LEAP)
    with pytest.raises(
        DivergedError, match=f"peer 'eyes/1' has diverged: the norm of its weights is {1.1 * LEAP:.0f}"
    ):
        divergence.look(cohort.names, 0)
    given = {n: 1.1 * LEAP * start["eyes/1"][n][None] for n, _ in cohort.student("eyes/1").named_parameters()}
    divergence.given(["eyes/1"], given)
    divergence.look(cohort.names, 0)
    with pytest.raises(
        DivergedError, match="the weights that peer 'eyes/1' is given are not finite, or more"
    ):
        divergence.given(["eyes/1"], {n: t * torch.nan for n, t in given.items()})


def test_statements_that_are_no_numbers_are_told_and_left_out() -> None:
    """A logit of minus infinity rules a class out; any other number that is not finite has no meaning."""
    said = torch.zeros(2, 3, CLASSES)
    said[0, :, 0] = -torch.inf
    said[1, 1, 1] = torch.nan
    assert finite_rows(said, logits=True).tolist() == [True, False]
    assert finite_rows(said, logits=False).tolist() == [False, False]
