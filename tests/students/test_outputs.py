"""Regressors find the least squares solution, taggers descend binary cross-entropy, and both teach."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanSquaredError

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.federated import FedAvg
from mmkd.knowledge import Knowledge, SharedLogits, SharedTags, SharedValues
from mmkd.schedule import Schedule
from mmkd.students import Regressor, Student, Tagger
from mmkd.students.outputs import OneHead
from mmkd.testing import check_student
from mmkd.topology import Star
from mmkd.types import Batch, ConfigError
from tests.tiny import sgd, trainer

ROWS, OUTPUTS = 8, 2
# Columns of a Hadamard matrix, so that the normal equations of complete data are diagonal, with the bias.
X = torch.tensor([[(-1.0) ** bin(i & j).count("1") for j in (1, 2, 4)] for i in range(ROWS)]).double()
WAYS = {"never": {"vectorize": "never"}, "always": {"vectorize": "always"},
        "recorded": {"vectorize": "always", "compile": "record"}}  # fmt: skip


class Line(Regressor):
    modalities = ("v",)

    def __init__(self, outputs: int, **kwargs: Any) -> None:
        super().__init__(outputs, dim=3, **kwargs)
        self.double()

    def embed(self, x: Tensor) -> Tensor:
        return x


class Marks(Tagger):
    modalities = ("v",)

    def __init__(self, outputs: int, **kwargs: Any) -> None:
        super().__init__(outputs, dim=3, **kwargs)
        self.double()

    def embed(self, x: Tensor) -> Tensor:
        return x


class Rows(PeerDataModule):
    """The same eight rows for everybody, with labels of each peer's own; one label of each is unknown."""

    num_classes, modalities = OUTPUTS, ("v",)

    def __init__(self, kind: type[Student], **kwargs: Any) -> None:
        super().__init__(batch_size=ROWS, **kwargs)
        self.kind = kind

    def given(self, peer: str, split: str) -> Tensor:
        stream = torch.Generator().manual_seed(list(self.peers).index(peer))
        y = torch.randn(ROWS, OUTPUTS, generator=stream, dtype=torch.float64) + X[:, :2]
        y = (y > 0).double() if self.kind is Marks else y
        if split == "train":
            y[0, 0] = torch.nan
        return y

    def private(self, peer: str, split: str) -> Samples:
        return Samples(X, self.given(peer, split))

    def public(self, split: str) -> PublicSamples:
        return PublicSamples({"v": 0.5 * X[:4]})


def fitted(
    kind: type[OneHead], way: str, steps: int, rate: float, *, init: Any = "shared", **method: Any
) -> tuple[Cohort, Rows]:
    """Two peers after steps over all their samples."""
    cohort = Cohort(
        {"a": Fleet(lambda n: kind(n, optimizer=sgd(rate)), 2)},
        OUTPUTS,
        init=init,
        metrics={"squares": MeanSquaredError()} if kind is Line else None,
        **WAYS[way],  # type: ignore[arg-type]
    )
    data = Rows(kind)
    callback = DecentralizedCallback(
        **method, schedule=Schedule(local_steps=steps, knowledge_every=1 if "knowledge" in method else None)
    )
    trainer(callback, max_epochs=1).fit(cohort, datamodule=data)
    return cohort, data


@pytest.mark.parametrize("way", WAYS)
def test_a_linear_regressor_is_the_least_squares_solution(way: str) -> None:
    """Of each value on the rows where it is known: the second column is solved, the first has seven rows.

    With a rate of outputs / 2 a step leaves 1 - 1 = 0 of a complete column's error, and at most half of that of
    seven rows, whose normal matrix is the unit matrix less half a projection: 2^-60 after sixty steps.
    """
    cohort, data = fitted(Line, way, 60, OUTPUTS / 2)
    design = torch.cat([X, torch.ones(ROWS, 1, dtype=torch.float64)], 1)
    for name in cohort.names:
        y, student = data.given(name, "train"), cohort.student(name)
        solved = [torch.linalg.lstsq(design[~k.isnan()], k[~k.isnan(), None]).solution[:, 0] for k in y.T]
        found = torch.cat([student.main.weight, student.main.bias[:, None]], 1)  # type: ignore[union-attr,index]
        torch.testing.assert_close(found.detach(), torch.stack(solved), rtol=0, atol=1e-12)
        true = data.given(name, "val")
        wrong = (true - design @ torch.stack(solved).T).square()
        explained = 1 - wrong.sum(0) / (true - true.mean(0)).square().sum(0)
        metrics = cohort.metrics[name]
        assert metrics["r2"] == pytest.approx(float(explained.mean()))
        assert metrics["mse"] == pytest.approx(float(wrong.mean()))
        assert metrics["squares"] == pytest.approx(float(wrong.mean()), rel=1e-5)  # in single precision


def heads(cohort: Cohort) -> list[nn.Linear]:
    """Copies of the heads of all peers."""
    return [copy.deepcopy(cohort.student(name).main) for name in cohort.names]  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Line, Marks])
def test_a_step_is_a_quarter_of_the_labels_and_three_of_the_mean_that_is_heard(kind: Any, way: str) -> None:
    """By torch's own losses: of known labels, divided by all entries, and of the mean of both predictions."""
    knowledge = (SharedValues if kind is Line else SharedTags)(alpha=0.25)
    cohort, data = fitted(kind, way, 1, 0.1, init="own", knowledge=knowledge, topology=Star())
    mains = heads(Cohort({"a": Fleet(lambda n: kind(n), 2)}, OUTPUTS, init="own"))
    public = 0.5 * X[:4]
    mean = torch.stack([main(public) for main in mains]).mean(0).detach()
    loss = F.mse_loss if kind is Line else F.binary_cross_entropy_with_logits
    for name, main, after in zip(cohort.names, mains, heads(cohort), strict=True):
        y = data.given(name, "train")
        each = loss(main(X), y.nan_to_num(), reduction="none")
        # A divergence has the slope of the cross-entropy against the mean.
        taught = loss(main(public), mean if kind is Line else mean.sigmoid())
        whole = 0.25 * each[~y.isnan()].sum() / y.numel() + 0.75 * taught
        slopes = torch.autograd.grad(whole, list(main.parameters()))
        for was, now, slope in zip(main.parameters(), after.parameters(), slopes, strict=True):
            # Statements are sent in single precision, with a relative error of 2^-25.
            torch.testing.assert_close(now, was - 0.1 * slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("kind", "knowledge"), [(Line, SharedValues()), (Marks, SharedTags(samples="all"))])
def test_they_teach_and_average_at_once(kind: Any, knowledge: Knowledge) -> None:
    """Weights are equal after a round of FedAvg, and statements were carried: two numbers for four samples."""
    cohort, _ = fitted(kind, "always", 3, 0.1, knowledge=knowledge, aggregation=FedAvg(), topology=Star())
    one, two = (cohort.student(name).state_dict() for name in cohort.names)
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert set(cohort.metrics["a/0"]) >= ({"r2", "mse", "mae"} if kind is Line else {"f1"})


def test_contracts() -> None:
    check_student(Line, X, torch.rand(ROWS, 2, dtype=torch.float64))
    check_student(Marks, X, (torch.rand(ROWS, 2) > 0.5).double())
    one = Line(1)
    wide, flat = (one.private_loss(Batch(X, y, torch.arange(ROWS), 0)) for y in (X[:, :1], X[:, 0]))
    assert torch.equal(wide, flat)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: fitted(Line, "always", 1, 0.1, knowledge=SharedLogits()), "Line cannot learn SharedLogits, which"
         " reads Classes, and it gives Values: choose SharedValues"),
        (lambda: fitted(Marks, "always", 1, 0.1, knowledge=SharedValues()), "it gives Tags: choose SharedTags"),
        (lambda: Cohort({"a": Fleet(Line, 1), "b": Fleet(Marks, 1)}, 2), "give Tags and Values share no cohort"),
        (lambda: Line(3).private_loss(Batch(X, X[:, :2], torch.arange(ROWS), 0)), "Line gives 3 numbers a sample"),
        (lambda: SharedValues(confident=0.5), "confident and knowledge.pretrain are about classes"),
        (lambda: SharedTags(alpha=1.0), r"SharedTags: alpha must lie in \[0, 1\), not 1.0"),
    ],
)  # fmt: skip
def test_what_has_no_meaning(attempt: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        attempt()
    assert "\n" not in str(error.value)
