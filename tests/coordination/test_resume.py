"""Kill at any block, resume from the last checkpoint, end with the same weights, metrics and ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.federated import FedAvg
from mmkd.knowledge import Floats, SharedLogits
from mmkd.topology import Ring, Star
from tests.tiny import CLASSES, Eye, Kill, TinyData, TinyDataDouble, fit, fleets, schedule, trainer

METHODS: dict[str, Any] = {
    "fresh": lambda: (SharedLogits(), FedAvg(), Ring()),
    "cached": lambda: (
        SharedLogits(samples="all", wire=Floats("float16")),
        FedAvg(optimizer_state="keep"),
        Star(),
    ),
}


def scheduled(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=0.01)


def decay(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)


@pytest.mark.parametrize("vectorize", ["never", "always"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("blocks", [2, 5, 9])  # in the first round, the second, the second epoch
def test_resume_is_exact(tmp_path: Path, vectorize: Any, method: str, blocks: int) -> None:
    def run(*extra: Callback, **kwargs: Any) -> tuple[Cohort, DecentralizedCallback, Any]:
        recipe = {"optimizer": scheduled, "scheduler": decay}
        cohort = Cohort(fleets(**recipe), CLASSES, vectorize=vectorize)
        work = {"cameras": 7, "cameras/1": 4, "microphones": 5}
        callback = DecentralizedCallback(*METHODS[method](), schedule(local_steps=work, knowledge_every=3))
        data, ckpt = TinyData(batch_size=16), kwargs.pop("ckpt_path", None)
        one = trainer(callback, *extra, **kwargs)
        if ckpt is None and any(isinstance(c, Kill) for c in extra):
            with pytest.raises(SystemExit):  # Lightning turns an interrupt into an orderly exit
                one.fit(cohort, datamodule=data)
        else:
            one.fit(cohort, datamodule=data, ckpt_path=ckpt)
        return cohort, callback, one

    whole, ledger, trainer_whole = run()
    save = ModelCheckpoint(
        tmp_path, "last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False
    )
    run(save, Kill(blocks), enable_checkpointing=True)
    assert (tmp_path / "last.ckpt").exists()
    again, ledger_again, trainer_again = run(ckpt_path=tmp_path / "last.ckpt")

    for name in whole.names:
        one, two = whole.student(name).state_dict(), again.student(name).state_dict()
        assert all(torch.equal(one[n], two[n]) for n in one), name
        (group, row), (other, place) = whole.axis.locate(name), again.axis.locate(name)
        assert str(group.optimizer_state(row)) == str(other.optimizer_state(place))
    assert ledger.ledger == ledger_again.ledger
    assert whole.metrics == again.metrics
    assert trainer_whole.global_step == trainer_again.global_step
    assert trainer_whole.callback_metrics == trainer_again.callback_metrics


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
    from mmkd.cohort import cohort as module
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
