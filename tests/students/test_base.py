"""What every student does alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmkd.cohort import Cohort, Fleet
from mmkd.functional.random import keyed
from mmkd.types import NO_LABEL, Batch, ConfigError
from tests.tiny import CLASSES, FEATURES, Eye, TinyData, TinyDataDouble, trainer


def test_the_prior_is_that_of_the_labels_with_one_added() -> None:
    student = Eye(CLASSES)
    student.observe(torch.tensor([7, 0, 1]))
    expected = torch.tensor([8 / 11, 1 / 11, 2 / 11]).log()
    torch.testing.assert_close(student.log_prior, expected)


def test_the_private_loss_reads_logits_under_the_prior() -> None:
    student = Eye(CLASSES, drop=0.0, prior_correction=0.5).eval()
    student.observe(torch.tensor([7, 0, 1]))
    x, y = torch.randn(9, FEATURES), torch.arange(9) % CLASSES
    shifted = student(x) + 0.5 * torch.tensor([8 / 11, 1 / 11, 2 / 11]).log()
    loss = student.private_loss(Batch(x, y, y, 0))
    torch.testing.assert_close(loss, F.cross_entropy(shifted, y))
    student.prior_correction = 0.0
    torch.testing.assert_close(student.private_loss(Batch(x, y, y, 0)), F.cross_entropy(student(x), y))


def test_a_lone_student_is_reproducible_and_disturbs_nobody() -> None:
    """Dropout follows the batch, not the state of torch's generator, which stays as it was."""
    data = TinyData(batch_size=16, peers={"cameras/0": "image"})
    data.setup("fit")
    with keyed(0):
        start = Eye(CLASSES)
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        student = copy.deepcopy(start)
        batch = next(iter(data.only("cameras/0").train_dataloader()))
        probe = copy.deepcopy(start)
        probe.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        probe.training_step(batch, 0)
        assert torch.equal(torch.get_rng_state(), before)
        run = trainer(max_epochs=1)
        run.fit(student, datamodule=data.only("cameras/0"))
        states.append(student.state_dict())
        assert float(run.callback_metrics["val/accuracy"]) > 1 / CLASSES
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_samples_without_a_label_are_left_out_of_the_loss() -> None:
    """A batch of such alone has no loss."""
    student = Eye(CLASSES, drop=0.0).eval()
    x, y = torch.randn(9, FEATURES), torch.arange(9) % CLASSES
    there = torch.arange(9) < 5
    some = Batch(x, torch.where(there, y, NO_LABEL), y, 0, labelled=there)
    torch.testing.assert_close(
        student.private_loss(some), student.private_loss(Batch(x[:5], y[:5], y[:5], 0))
    )
    none = Batch(x, torch.full_like(y, NO_LABEL), y, 0, labelled=torch.zeros_like(there))
    assert float(student.private_loss(none).detach()) == 0


def test_a_lone_student_refuses_what_it_cannot_read() -> None:
    data = TinyData(batch_size=16, peers={"cameras/0": "image"})
    data.setup("fit")
    data.pool.y += 1
    with pytest.raises(
        ConfigError, match=r"the train samples of peer 'cameras/0' have labels 3, .* from 0 to 2"
    ):
        trainer(max_epochs=1).fit(Eye(CLASSES), datamodule=data.only("cameras/0"))


@pytest.mark.parametrize("settings", [{"label_smoothing": 0.2}, {"class_weights": [0.5, 2.0, 1.0]}, {}])
def test_labels_of_any_kind(settings: dict[str, Any]) -> None:
    """Soft labels of 0 and 1 are hard ones; smoothing and weights are torch's, with a mean over samples."""
    student = Eye(CLASSES, drop=0.0, **settings).eval()
    x, y = torch.randn(9, FEATURES), torch.arange(9) % CLASSES
    weight = torch.tensor(settings.get("class_weights", [1.0] * CLASSES))
    smoothing = settings.get("label_smoothing", 0.0)
    whole = F.cross_entropy(student(x), y, weight, label_smoothing=smoothing, reduction="sum")
    for labels in (y, F.one_hot(y, CLASSES), F.one_hot(y, CLASSES).double()):
        torch.testing.assert_close(student.private_loss(Batch(x, labels, y, 0)), whole / 9)
    holes = F.one_hot(y, CLASSES).float()
    holes[3:] = torch.nan
    some = student.private_loss(Batch(x, holes, y, 0))
    torch.testing.assert_close(some, student.private_loss(Batch(x[:3], y[:3], y[:3], 0)))
    if settings:
        some = student.private_loss(Batch(x, y.where(y < 1, NO_LABEL), y, 0))
        torch.testing.assert_close(some, student.private_loss(Batch(x[::3], y[::3], y[::3], 0)))


class Soft(TinyDataDouble):
    """Every third sample has no label; others have one, written as a class or as probabilities."""

    soft = False

    def setup(self, stage: str) -> None:
        super().setup(stage)
        for samples in (self.pool, self.held_out):
            y, none = samples.y, torch.arange(len(samples)) % 3 == 0
            samples.y = y.masked_fill(none, NO_LABEL)
            if self.soft:
                samples.y = F.one_hot(y, CLASSES).double().masked_fill(none[:, None], torch.nan)


class Softer(Soft):
    soft = True


@pytest.mark.parametrize("settings", [{}, {"class_weights": "balanced", "prior_correction": 1.0}])
@pytest.mark.parametrize(
    ("vectorize", "accumulate"), [("always", 1), ("always", 3), ("never", 1), ("never", 3)]
)
def test_labels_written_as_probabilities_train_as_classes_do(
    vectorize: Any, accumulate: int, settings: dict[str, Any]
) -> None:
    """Weights and metrics are the same, in memory, in batches and in parts of these."""
    found = []
    for data in (Soft, Softer):
        peers = {"cameras": Fleet(lambda n: Eye(n, drop=0.0, **settings), 2)}
        cohort = Cohort(peers, CLASSES, vectorize=vectorize, accumulate=accumulate)
        trainer(max_epochs=1, precision="64-true").fit(cohort, datamodule=data(batch_size=16))
        found.append((cohort.state_dict(), cohort.metrics))
    (hard, metrics), (soft, same) = found
    assert same == metrics
    assert metrics["cameras/0"]["shared_accuracy"] > 1 / CLASSES
    for name, tensor in hard.items():
        torch.testing.assert_close(soft[name], tensor, rtol=0, atol=1e-7)


def test_balanced_weights_are_each_peers_own_and_stay_there() -> None:
    """Of 6, 0 and 2 samples: 8 / (2 * 6) and 8 / (2 * 2). A checkpoint holds them, an exchange never."""
    student = Eye(CLASSES, class_weights="balanced")
    student.observe(torch.tensor([6, 0, 2]))
    torch.testing.assert_close(student.state_dict()["class_weight"], torch.tensor([2 / 3, 0.0, 2.0]))
    assert "class_weight" in student.personal
    assert "class_weight" not in Eye(CLASSES).state_dict().keys() | Eye(CLASSES).personal


def test_peers_of_a_stack_weigh_their_own_classes() -> None:
    """Samples per class count inversely, by each peer's own counts; both ways descend the same loss."""
    after = {}
    for vectorize in ("always", "never"):
        cohort = Cohort(
            {"cameras": Fleet(lambda n: Eye(n, class_weights="balanced", label_smoothing=0.1, drop=0.0), 2)},
            CLASSES,
            vectorize=vectorize,  # type: ignore[arg-type]
        )
        data = TinyDataDouble(batch_size=16)
        trainer(max_epochs=1, limit_val_batches=0, precision="64-true").fit(cohort, datamodule=data)
        after[vectorize] = cohort.state_dict()
        for name in cohort.names:
            counts = data.label_counts(name)
            expected = (counts.sum() / (CLASSES * counts)).double()
            torch.testing.assert_close(after[vectorize][f"peers.{name}.class_weight"], expected)
    one, two = after["always"], after["never"]
    assert not torch.equal(one["peers.cameras/0.class_weight"], one["peers.cameras/1.class_weight"])
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: Eye(CLASSES, label_smoothing=1.0), r"Eye: label_smoothing must lie in \[0, 1\), not 1.0"),
        (
            lambda: Eye(CLASSES, class_weights=[1.0, 2.0]),
            "class_weights are 2 numbers, and there are 3 classes",
        ),
        (lambda: Eye(CLASSES, class_weights=[1.0, 2.0, -1.0]), "Eye: class_weights must be at least 0"),
        (lambda: of(torch.rand(9)), r"labels of shape \[\] and type float32: give whole numbers, or 3 prob"),
        (lambda: of(torch.rand(9, 2)), r"labels of shape \[2\] and type float32"),
    ],
)
def test_labels_that_are_none(attempt: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        attempt()
    assert "\n" not in str(error.value)


def of(y: torch.Tensor) -> torch.Tensor:
    return Eye(CLASSES).private_loss(Batch(torch.randn(9, FEATURES), y, torch.arange(9), 0))
