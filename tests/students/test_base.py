"""What every student does alone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from mmkd.functional.random import keyed
from mmkd.types import NO_LABEL, Batch, ConfigError
from tests.tiny import CLASSES, FEATURES, Eye, TinyData, trainer


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
