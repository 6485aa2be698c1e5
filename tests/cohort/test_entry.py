"""Data, students and settings that do not fit are refused before anything trains; who has no sample has no score."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins import Precision
from torch import Tensor, nn

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.trial import try_students
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.federated import FedAvg
from mmkd.knowledge import Prototypes
from mmkd.students import Student
from mmkd.topology import Complete, Star
from mmkd.types import NO_LABEL, Batch, Classes, ConfigError, Padded
from tests.tiny import CLASSES, FEATURES, Eye, TinyData, TinyDataDouble, schedule, sgd, trainer

NAMES = ["eyes/0", "eyes/1"]


class Halves(PeerDataModule):
    """Two peers of eight samples each; a test changes what the second one has."""

    num_classes, modalities = CLASSES, ("image",)

    def __init__(self, change: Any = lambda x: x, public: Any = lambda x: x, **kwargs: Any) -> None:
        super().__init__(batch_size=4, peers=dict.fromkeys(NAMES, "image"), **kwargs)
        self.change, self.seen = change, public

    def private(self, peer: str, split: str) -> Any:
        x = torch.randn(8, FEATURES, generator=torch.Generator().manual_seed(1))
        x = self.change(x) if peer == NAMES[1] else x
        return Samples(x, torch.arange(8)[: 8 if isinstance(x, Padded) else len(x)] % CLASSES)

    def public(self, split: str) -> Any:
        return PublicSamples({"image": self.seen(torch.zeros(6, FEATURES))})


def tried(data: Halves, accumulate: int = 1, vectorize: Any = "always") -> None:
    cohort = Cohort({"eyes": Fleet(Eye, 2)}, CLASSES, vectorize=vectorize)
    before, mode = torch.get_rng_state(), cohort.training
    state = {n: t.clone() for n, t in cohort.state_dict().items()}
    try_students(list(cohort.groups), data, accumulate, True, Precision())  # type: ignore[arg-type]  # Groups
    assert torch.equal(torch.get_rng_state(), before)
    assert cohort.training == mode
    assert all(torch.equal(t, state[n]) for n, t in cohort.state_dict().items())


@pytest.mark.parametrize(
    ("data", "accumulate", "said"),
    [
        (
            {"change": lambda x: x[:, :5]},
            1,
            r"peer 'eyes/1' cannot read its train samples, of float32 \[5\] each: ",
        ),
        (
            {"change": lambda x: x.double()},
            1,
            r"peer 'eyes/1' cannot read its train .* of float64 \[8\] each: ",
        ),
        (
            {"change": lambda x: x.byte()},
            1,
            r"peer 'eyes/1' cannot read its train samples, of uint8 \[8\] each: ",
        ),
        (
            {"public": lambda x: x[:, :5]},
            1,
            r"peer 'eyes/0' cannot read the public samples, of float32 \[5\] each",
        ),
        (
            {"change": lambda x: Padded(x, torch.arange(1, 9))},
            1,
            r"peer 'eyes/1' cannot read its train samples, of float32 \[length\] each: ",
        ),
        ({"change": lambda x: x[:1]}, 1, "peer 'eyes/1' learns from batches of one sample, over which"),
        (
            {"change": lambda x: x[:5], "drop_last": False},
            1,
            "peer 'eyes/1' learns from batches of one sample",
        ),
        ({"change": lambda x: x[:3]}, 2, "peer 'eyes/1' learns from batches of one sample"),
        ({}, 4, "peer 'eyes/0' learns from batches of one sample"),
    ],
)
def test_what_a_student_cannot_read_is_refused(data: Any, accumulate: int, said: str) -> None:
    """Width, type, public views; one sample, a last batch of one, and parts of one, for normalisation."""
    with pytest.raises(ConfigError, match=said):
        tried(Halves(**data), accumulate)


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_a_trial_leaves_no_trace(vectorize: str) -> None:
    tried(Halves(lambda x: x[:5]), 2, vectorize)


def test_validation_samples_of_another_width_are_refused() -> None:
    class Wide(TinyData):
        def private(self, peer: str, split: str) -> Any:
            samples: Any = super().private(peer, split)
            return samples if split == "train" else Samples(samples.x[:, :5], samples.y)

    said = r"peer 'eyes/0' cannot read its val samples, of float32 \[5\] each: "
    with pytest.raises(ConfigError, match=said):
        trainer().validate(Cohort({"eyes": Fleet(Eye, 2)}, CLASSES), datamodule=Wide(batch_size=16))


class Gaps(TinyData):
    """The first peer has no validation samples."""

    def private(self, peer: str, split: str) -> Any:
        samples: Any = super().private(peer, split)
        return samples.subset([]) if split == "val" and peer == "eyes/0" else samples


def test_who_has_no_validation_samples_has_no_score_and_others_have() -> None:
    """Nothing that stops at nan stops."""
    cohort = Cohort({"eyes": Fleet(lambda n: Eye(n), 3)}, CLASSES, vectorize="always")
    stop = EarlyStopping("val/shared_accuracy", mode="max", patience=9)
    run = trainer(DecentralizedCallback(None, FedAvg(), Star(), schedule()), stop, max_epochs=2)
    run.fit(cohort, datamodule=Gaps(batch_size=16))
    assert run.current_epoch == 2
    assert sorted(cohort.metrics) == ["eyes/1", "eyes/2"]
    one, two = (cohort.metrics[name]["shared_accuracy"] for name in ("eyes/1", "eyes/2"))
    assert float(run.callback_metrics["val/shared_accuracy"]) == pytest.approx((one + two) / 2)


class Measure(Student):
    """Learns a number."""

    modalities = ("image",)

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer, self.seen = nn.Linear(FEATURES, 1), list[Tensor]()

    def predict(self, x: Tensor) -> Classes:
        said = self.layer(x)
        return Classes(said, said.new_empty(0, *said.shape), said)

    def private_loss(self, batch: Batch) -> Tensor:
        assert batch.y is not None
        self.seen.append(batch.y)
        return (self.layer(batch.x)[:, 0] - batch.y).square().mean()


class Numbers(TinyData):
    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.pool.y = self.pool.x.norm(dim=1)
        self.held_out.y = self.held_out.x.norm(dim=1)


def test_targets_of_ones_own_objective_stay_as_they_are() -> None:
    """Floats are learned as floats, and are refused where classes would be counted."""
    cohort, data = Cohort({"eyes": Fleet(Measure, 2)}, CLASSES, vectorize="never"), Numbers(batch_size=16)
    trainer(max_epochs=1, limit_val_batches=0).fit(cohort, datamodule=data)
    seen = torch.cat([y for student in cohort.axis._groups[0].students() for y in student.seen])  # type: ignore[union-attr]
    assert set(seen.tolist()) == set(data.pool.y.tolist()) & set(seen.tolist())
    assert bool((seen != seen.round()).any())
    with pytest.raises(
        ConfigError, match=r"the val samples of peer 'eyes/0' have labels .* from 0 to 2: a student"
    ):
        trainer().validate(cohort, datamodule=data)


class Sparse(TinyDataDouble):
    """Every third training sample has no label, and the first forty of a hundred validation samples have none."""

    cut = False

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.pool.y[::3] = NO_LABEL
        if self.cut:
            self.held_out = self.held_out.subset(range(40, 100))
        else:
            self.held_out.y[:40] = NO_LABEL


def plain(num_classes: int) -> Student:
    student = Eye(num_classes, drop=0.0, optimizer=sgd(0.1)).double()
    student.net[1] = nn.Identity()  # statistics of parts are not those of the whole
    return student


def test_samples_without_a_label_count_for_nothing() -> None:
    """Vectorised in one piece or one after the other in three: the mean is over those that have one.

    Class means leave them out, too, and accuracy is that on the others.
    """
    states = []
    for vectorize, parts in (("always", 1), ("never", 3)):
        cohort = Cohort({"eyes": Fleet(plain, 2)}, CLASSES, vectorize=vectorize, accumulate=parts)  # type: ignore[arg-type]
        callback = DecentralizedCallback(Prototypes(), None, Complete(), schedule())
        data = Sparse(batch_size=16)
        trainer(callback, max_epochs=1).fit(cohort, datamodule=data)
        states.append(cohort.state_dict())
        counts = sum(data.label_counts(name) for name in NAMES)
        assert int(counts.sum()) == 200
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-9, atol=1e-10)
    found, whole = cohort.metrics, Sparse(batch_size=16)
    whole.cut = True
    trainer().validate(cohort, datamodule=whole, verbose=False)
    assert cohort.metrics == found
