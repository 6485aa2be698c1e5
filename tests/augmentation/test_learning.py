"""Changed samples in a cohort: the same in all ways of training, after a resume, and never where others listen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.augmentation import Augmentation
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.blocks import Blocks
from mmkd.functional.random import uniforms
from mmkd.knowledge import SharedLogits
from mmkd.topology import Complete
from mmkd.types import ConfigError
from tests.tiny import CLASSES, FEATURES, Eye, TinyData, schedule, sgd, trainer

NOTES: list[Tensor] = []
"""What was said, one exchange after the other."""


class Plain(Eye):
    """A student whose answers depend on its weights alone."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh())


class Noted(SharedLogits):
    """Notes what is said."""

    def speak(self, predictions: Any) -> Any:
        statements = super().speak(predictions)
        NOTES.append(next(iter(statements.values())).values.detach().clone())
        return statements


def go(folder: Path | None = None, *, epochs: int = 2, ckpt: Path | None = None, **how: Any) -> Any:
    """Two peers, each epoch a round of three steps; what is given goes to data, cohort or callback."""
    names = ("augment", "augment_public", "num_workers")
    data = {"batch_size": 8, **{n: how.pop(n) for n in names if n in how}}
    knowledge = how.pop("knowledge", None)
    cohort = Cohort({"eyes": Fleet(lambda n: Plain(n, optimizer=sgd(0.1)), 2)}, CLASSES, **how)
    callback = DecentralizedCallback(knowledge, None, Complete(), schedule(local_steps=3))
    run = trainer(callback, max_epochs=epochs, limit_val_batches=0)
    run.fit(cohort, datamodule=TinyData(**data), ckpt_path=ckpt)
    if folder is not None:
        run.save_checkpoint(folder / "one.ckpt")
    return cohort


class Moved(Augmentation):
    """Adds a number of its own to each feature."""

    modality = "image"

    def __call__(self, x: Tensor, streams: Tensor) -> Tensor:
        return x + uniforms(streams, x.shape[1]).to(x.dtype)


TURNS: dict[str, list[Augmentation]] = {"image": [Moved()]}


def test_recorded_stacked_and_separate_steps_and_workers_read_the_same_samples() -> None:
    """Up to the rounding that sets these ways apart without changes, too; and others than without changes."""
    plain = go(vectorize="never").state_dict()
    one = go(vectorize="never", augment=TURNS).state_dict()
    ways: list[dict[str, Any]] = [
        {"vectorize": "always"},
        {"vectorize": "always", "compile": "record"},
        {"vectorize": "never", "num_workers": 1},
    ]
    for how in ways:
        other = go(augment=TURNS, **how).state_dict()
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5, msg=f"{how} {name}")
    assert any(float((one[n] - t).abs().max()) > 1e-3 for n, t in plain.items() if t.is_floating_point())


def test_a_student_alone_reads_what_it_reads_in_a_cohort() -> None:
    cohort = go(vectorize="never", augment=TURNS)
    data = TinyData(batch_size=8, augment=TURNS, peers=cohort.roster[0])
    data.setup("fit")
    blocks = Blocks(data, cohort.timetable, cohort.together, False)
    loader = iter(data.only("eyes/1").train_dataloader())  # type: ignore[attr-defined]
    for step in blocks[0].steps:
        alone = next(loader)
        (own,) = (b for b in step.private if "eyes/1" in b.peers)
        row = own.peers.index("eyes/1")
        assert torch.equal(own.x[row], alone.x)  # type: ignore[index]
    data.augment = {}
    assert not torch.equal(alone.x, next(iter(data.only("eyes/1").train_dataloader())).x)  # type: ignore[attr-defined]


def test_a_resumed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    how: dict[str, Any] = {"vectorize": "never", "augment": TURNS, "augment_public": True}
    how["knowledge"] = SharedLogits()
    go(tmp_path, epochs=1, **how)
    resumed, whole = go(epochs=3, ckpt=tmp_path / "one.ckpt", **how), go(epochs=3, **how)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize("samples", ["all", "batch"])
def test_what_is_said_is_said_about_samples_as_they_are_and_learned_from_changed_ones(samples: Any) -> None:
    """Students that do not learn (yet) say the same with and without changes; those that learn differ."""

    def said(rate: float, **how: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
        NOTES.clear()
        cohort = Cohort(
            {"eyes": Fleet(lambda n: Plain(n, optimizer=sgd(rate)), 2)}, CLASSES, vectorize="never"
        )
        knowledge = Noted(samples=samples)
        callback = DecentralizedCallback(knowledge, None, Complete(), schedule(local_steps=3))
        run = trainer(callback, max_epochs=2, limit_val_batches=0)
        run.fit(cohort, datamodule=TinyData(batch_size=8, **how))
        return list(NOTES), cohort.state_dict()

    public: dict[str, Any] = {"augment_public": True, "augment": TURNS}
    still, turned = said(1e-30)[0], said(1e-30, **public)[0]
    assert len(still) == len(turned) > 1
    for one, other in zip(still, turned, strict=True):
        assert torch.equal(one, other)
    both, private, none = (said(0.1, **how)[1] for how in (public, {"augment": TURNS}, {}))
    for a, b in ((both, private), (private, none)):
        assert any(not torch.equal(a[n], b[n]) for n in a)


def test_evaluation_is_of_samples_as_they_are() -> None:
    plain, turned = (
        next(iter(data.val_dataloader())).x
        for data in (TinyData(batch_size=8, peers={"eyes/0": "image"}, augment=a) for a in ({}, TURNS))
        if data.setup("fit") is None
    )
    assert torch.equal(plain, turned)


def test_public_samples_are_changed_only_if_asked() -> None:
    data = TinyData(batch_size=8, augment=TURNS, peers={"eyes/0": "image"})
    data.setup("fit")
    timetable = schedule(local_steps=3).timetable({"eyes/0": 4}, None)
    data.own = ["eyes/0"]
    assert all(step.learned is None for step in Blocks(data, timetable, [["eyes/0"]], True)[0].steps)
    data.augment_public = True
    for step in Blocks(data, timetable, [["eyes/0"]], True)[0].steps:
        assert step.learned is not None
        assert step.public is not None
        assert torch.equal(step.learned.ids, step.public.ids)
        assert not torch.equal(step.learned.views["image"], step.public.views["image"])  # type: ignore[arg-type]


def test_a_modality_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.augment names 'smell'"):
        TinyData(batch_size=8, augment={"smell": []}, peers={"eyes/0": "image"})
