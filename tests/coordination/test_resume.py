"""Resumed from any block, a run ends with the same weights, metrics and ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mmkd.caching import KnowledgeCache
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.federated import FedAvg
from mmkd.knowledge import Floats, LogitDistance, MeanLogit, Prototypes, SharedLogits
from mmkd.participation import Sampled
from mmkd.topology import Ring, Star, Topology
from tests.grids import each_once
from tests.tiny import CLASSES, Eye, TinyData, TinyDataDouble, fit, fleets, schedule, trainer


class Skewed(TinyData):
    """The last peer of each modality owns no sample of the first class; public samples are labelled."""

    def private(self, peer: str, split: str) -> Any:
        samples: Any = super().private(peer, split)
        if split != "train" or peer != self.of(self.peers[peer])[-1]:
            return samples
        return samples.subset((samples.y != 0).nonzero().flatten().tolist())

    def public_labels(self) -> Tensor:
        return self.public_y


def logits(**kwargs: Any) -> SharedLogits:
    return SharedLogits(samples="all", **kwargs)


METHODS: dict[str, Any] = {
    "fresh": lambda: {"knowledge": SharedLogits(), "aggregation": FedAvg(), "topology": Ring()},
    "cached": lambda: {
        "knowledge": logits(wire=Floats("float16")),
        "aggregation": FedAvg(optimizer_state="keep"),
        "topology": Star(),
    },
    "pool": lambda: {"knowledge": logits(pool=3), "topology": Ring(), "participation": Sampled(count=4)},
    "recall": lambda: {"knowledge": logits(pool=3, recall=1), "topology": Ring()},
    "cache": lambda: {
        "knowledge": logits(cache=KnowledgeCache(stale=5, change=0.02, entries=20), include_self=False),
        "topology": Star(),
    },
    "digest": lambda: {
        "knowledge": logits(consensus=MeanLogit(), loss=LogitDistance(), digest=2, pretrain=3),
        "topology": Star(),
    },
    "probabilities": lambda: {"knowledge": Prototypes(), "topology": Star()},
    "embedding": lambda: {"knowledge": Prototypes(of="embedding"), "topology": Ring()},
    "between": lambda: between(Ring()),
    "between hubs": lambda: between(Star("centre"), participation=Sampled(count=1)),
}


def between(graph: Topology, **kwargs: Any) -> dict[str, Any]:
    factors = {"knowledge": logits(), "aggregation": FedAvg(), "topology": Star(), "between": graph}
    return factors | kwargs


def scheduled(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=0.01)


def decay(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)


def go(
    method: str, vectorize: Any, *extra: Callback, ckpt_path: Path | None = None
) -> tuple[Cohort, DecentralizedCallback, Trainer]:
    """Two epochs of two rounds of four ticks, each in blocks of three and one."""
    recipe = {"optimizer": scheduled, "scheduler": decay}
    cohort = Cohort(fleets(**recipe), CLASSES, vectorize=vectorize)
    work = {"cameras": 4, "cameras/1": 2, "microphones": 3}
    every = 4 if method.startswith("between") else 3
    made = METHODS[method]()
    plan = schedule(local_steps=work, knowledge_every=every if made.get("knowledge") is not None else None)
    callback = DecentralizedCallback(schedule=plan, **made)
    run = trainer(callback, *extra, max_epochs=2)
    run.fit(cohort, datamodule=Skewed(batch_size=16), ckpt_path=ckpt_path)
    return cohort, callback, run


class Saving(Callback):
    """Writes a checkpoint after so many blocks, where Lightning's own callback would."""

    def __init__(self, path: Path, blocks: int) -> None:
        self.path, self.blocks = path, blocks

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.blocks -= 1
        if self.blocks == 0:
            trainer.save_checkpoint(self.path)


# Saved in the middle of the second round, of the first, and of the second epoch.
@each_once(method=list(METHODS), vectorize=["never", "always"], blocks=[3, 1, 5])
def test_resume_is_exact(tmp_path: Path, method: str, vectorize: Any, blocks: int) -> None:
    """A run that goes on from what another saved on its way ends as that one, which is told nothing of it."""
    path = tmp_path / "saved.ckpt"
    whole, ledger, trainer_whole = go(method, vectorize, Saving(path, blocks))
    state = torch.load(path, weights_only=False)
    assert 0 < state["global_step"] < trainer_whole.global_step
    if method in ("pool", "recall"):
        assert state["callbacks"]["DecentralizedCallback"]["lessons"]["pool"]
    again, ledger_again, trainer_again = go(method, vectorize, ckpt_path=path)

    for name in whole.names:
        one, two = whole.student(name).state_dict(), again.student(name).state_dict()
        assert all(torch.equal(one[n], two[n]) for n in one), name
        (group, row), (other, place) = whole.axis.locate(name), again.axis.locate(name)
        assert str(group.optimizer_state(row)) == str(other.optimizer_state(place))
    assert ledger.ledger == ledger_again.ledger
    assert ledger.ledger.total() > 0
    assert whole.metrics == again.metrics
    assert trainer_whole.global_step == trainer_again.global_step
    seen, seen_again = trainer_whole.callback_metrics, trainer_again.callback_metrics
    assert all(seen[n] == value for n, value in seen_again.items())
    # Lightning still shows losses of earlier epochs, of peers that have rested since.
    rested = {n.removeprefix("peer/").removesuffix("/train/loss") for n in seen.keys() - seen_again.keys()}
    last = whole.timetable.round_of(trainer_whole.global_step - 1)
    assert not rested & {peer for peer in whole.names if whole.timetable.steps(peer, last)}


def test_resume_between_two_epochs_is_exact(tmp_path: Path) -> None:
    """Lightning restores no loader there, so the loader has to find its place itself."""

    def make() -> tuple[Cohort, DecentralizedCallback]:
        return Cohort(fleets(), CLASSES, vectorize="never"), DecentralizedCallback(
            None, FedAvg(), Star(), schedule()
        )

    whole, callback = make()
    save = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1)
    run = trainer(callback, save, enable_checkpointing=True)
    run.fit(whole, datamodule=TinyData(batch_size=16))
    again, other = make()
    fit(again, other, ckpt_path=tmp_path / "epoch=0.ckpt")
    for name in whole.names:
        one, two = whole.student(name).state_dict(), again.student(name).state_dict()
        assert all(torch.equal(one[n], two[n]) for n in one), name
    assert callback.ledger == other.ledger


def test_a_lone_student_resumes_exactly(tmp_path: Path) -> None:
    data = TinyData(batch_size=16, peers={"cameras/0": "image"})
    data.setup("fit")
    states = []
    for ckpt in (None, "epoch=0.ckpt", "step.ckpt"):
        student = Eye(CLASSES)
        if ckpt is None:
            start = {n: t.clone() for n, t in student.state_dict().items()}
            saves = [
                ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1),
                ModelCheckpoint(tmp_path, "step", every_n_train_steps=25, save_top_k=1),
            ]
        student.load_state_dict(start)
        path = None if ckpt is None else tmp_path / ckpt
        run = trainer(*(saves if ckpt is None else []), enable_checkpointing=ckpt is None, max_epochs=2)
        run.fit(student, datamodule=data.only("cameras/0"), ckpt_path=path)
        states.append(student.state_dict())
    assert data.steps_per_epoch("cameras/0") == 18  # so step 25 is inside the second epoch
    for state in states[1:]:
        assert all(torch.equal(states[0][n], state[n]) for n in state)


def test_a_checkpoint_moves_between_the_two_paths(tmp_path: Path) -> None:
    """State is keyed by peer and parameter, so a run saved vectorised goes on one after the other."""

    def make(vectorize: Any) -> Cohort:
        return Cohort(fleets(drop=0.0), CLASSES, vectorize=vectorize).double()

    def callback() -> DecentralizedCallback:
        return DecentralizedCallback(schedule=schedule(local_steps={"cameras": 7, "microphones": 3}))

    one = fit(make("always"), callback(), TinyDataDouble(batch_size=16), max_epochs=1)
    one.save_checkpoint(tmp_path / "one.ckpt")
    states = []
    for vectorize in ("always", "never"):
        cohort = make(vectorize)
        fit(cohort, callback(), TinyDataDouble(batch_size=16), max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
        states.append({n: cohort.student(n).state_dict() for n in cohort.names})
    for name, state in states[0].items():
        for n, tensor in state.items():
            torch.testing.assert_close(states[1][name][n], tensor, rtol=1e-8, atol=1e-8)


def test_autos_choice_is_saved_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkd.cohort import ways as module
    from mmkd.cohort.groups.choice import Choice
    from mmkd.cohort.groups.stacked import StackedGroup

    def choose(fleet: str) -> Any:
        return lambda group, batches: Choice(group.names[0].startswith(fleet), None)

    monkeypatch.setattr(module, "choose", choose("cam"))
    first = Cohort(fleets(), CLASSES, vectorize="auto")
    fit(first, max_epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    assert [isinstance(g, StackedGroup) for g in first.groups] == [True, False]
    monkeypatch.setattr(module, "choose", choose("mic"))
    second = Cohort(fleets(), CLASSES, vectorize="auto")
    fit(second, max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert [isinstance(g, StackedGroup) for g in second.groups] == [True, False]
