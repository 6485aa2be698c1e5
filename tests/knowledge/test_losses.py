"""Distillation losses as factors: each is its function, under one convention, and any fits anywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.functional import distillation
from mmkd.functional.random import generator
from mmkd.knowledge import (
    Correlation,
    Decoupled,
    KullbackLeibler,
    LogitDistance,
    LogitMatching,
    MultiHeadDistillation,
    SharedLogits,
    Standardised,
    Target,
)
from mmkd.topology import Ring
from mmkd.types import Classes
from tests.tiny import CLASSES, fit, fleets, schedule

PEERS, SAMPLES, WIDTH = 3, 6, 5

# Each class, and its function of student logits, teacher logits, temperature and seen.
LOSSES: dict[str, tuple[Any, Any]] = {
    "kl": (
        KullbackLeibler(),
        lambda s, z, t, seen: distillation.kd(s, (z / t).softmax(-1), temperature=t, seen=seen),
    ),
    "matching": (LogitMatching(), lambda s, z, t, seen: distillation.logit_matching(s, z, seen=seen)),
    "distance": (LogitDistance(), lambda s, z, t, seen: distillation.logit_distance(s, z, seen=seen)),
    "decoupled": (
        Decoupled(alpha=0.7, beta=3.0),
        lambda s, z, t, seen: distillation.dkd(
            s, (z / t).softmax(-1), temperature=t, alpha=0.7, beta=3.0, seen=seen
        ),
    ),
    "standardised": (
        Standardised(),
        lambda s, z, t, seen: distillation.logit_standardised(s, z, temperature=t, seen=seen),
    ),
    "correlation": (
        Correlation(beta=0.6, gamma=0.3),
        lambda s, z, t, seen: distillation.dist(
            s, (z / t).softmax(-1), temperature=t, beta=0.6, gamma=0.3, seen=seen
        ),
    ),
}
every_loss = pytest.mark.parametrize("loss", LOSSES)


def draw(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, generator=generator(seed, "losses"), dtype=torch.float64)


def scene(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher logits, and weights of samples: of the second peer one, of the third none."""
    weights = torch.rand(PEERS, SAMPLES, generator=generator(seed, "seen"), dtype=torch.float64) * 3
    weights[0, [1, 4]] = 0.0
    weights[1] = 0.0
    weights[1, 2] = 0.25
    weights[2] = 0.0
    return draw(seed, PEERS, SAMPLES, WIDTH), draw(seed + 1, PEERS, SAMPLES, WIDTH), weights


@every_loss
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.sampled_from([0.5, 1.0, 2.0, 10.0]))
def test_takes_the_teachers_logits_behind_probabilities(loss, seed, temperature):
    """T log softmax(z / T) is z but for an offset, which none of them sees."""
    make, function = LOSSES[loss]
    student, teacher, weights = scene(seed)
    for seen in (weights, weights > 0, torch.ones_like(weights)):
        found = make(student, (teacher / temperature).softmax(-1), temperature, seen)
        expected = function(student, teacher, temperature, seen)
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@every_loss
def test_in_single_precision_probabilities_lose_little(loss):
    """Logits that reach 30 below the greatest still come back: single precision goes down to -87.

    A probability is off by 2^-24 of itself, its logarithm by 2^-24 and by as much of itself: 4e-6 of 30.
    """
    make, function = LOSSES[loss]
    student, teacher, weights = scene(3)
    teacher = 15 * teacher / teacher.abs().amax()
    found = make(student.float(), teacher.float().softmax(-1), 1.0, weights.float())
    torch.testing.assert_close(found.double(), function(student, teacher, 1.0, weights), atol=1e-4, rtol=1e-4)


@every_loss
def test_a_class_without_any_chance_is_harmless(loss):
    """Probabilities that underflow have no logarithm; the loss and its gradient stay finite."""
    make, _ = LOSSES[loss]
    student = draw(0, PEERS, SAMPLES, WIDTH).float().requires_grad_()
    certain = torch.zeros(PEERS, SAMPLES, WIDTH)
    certain[..., 2] = 1.0
    found = make(student, certain, 2.0, torch.ones(PEERS, SAMPLES))
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (found > 0).all()


@every_loss
def test_a_perfect_student_scores_zero_at_any_temperature(loss):
    make, _ = LOSSES[loss]
    teacher = draw(1, PEERS, SAMPLES, WIDTH)
    for temperature in (0.5, 1.0, 4.0):
        found = make(
            teacher + 3, (teacher / temperature).softmax(-1), temperature, torch.ones(PEERS, SAMPLES)
        )
        torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-10, rtol=0)
        other = make(-teacher, (teacher / temperature).softmax(-1), temperature, torch.ones(PEERS, SAMPLES))
        assert (other > 1e-2).all()


@every_loss
def test_what_is_added_to_all_logits_changes_nothing(loss):
    """A softmax takes the greatest off first, which is exact: multiples of 1/256 fit beside 2^14.

    Losses that take the mean off instead round at 2^-24 of what was added, 2^7.
    """
    make, _ = LOSSES[loss]
    added = 2.0**14 if loss in ("kl", "decoupled", "correlation") else 2.0**7
    student = (256 * draw(0, PEERS, SAMPLES, WIDTH)).round() / 256
    target = draw(1, PEERS, SAMPLES, WIDTH).softmax(-1).float()
    found = []
    for offset in (0.0, added):
        logits = (student + offset).float().requires_grad_()
        value = make(logits, target, 1.0, torch.ones(PEERS, SAMPLES))
        found.append((value, torch.autograd.grad(value.sum(), logits)[0]))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=5e-5, rtol=1e-5)


@every_loss
def test_weights_multiply_and_their_number_divides(loss):
    """sum_s w_s l_s / #(w_s > 0), from the losses of single samples; of nothing, zero.

    DIST correlates samples, too, which no single sample can: see the next test.
    """
    make, _ = LOSSES[loss]
    make = Correlation(beta=0.6, gamma=0.0) if loss == "correlation" else make
    student, teacher, weights = scene(5)
    target, one = (teacher / 2).softmax(-1), torch.ones(PEERS, 1)
    each = torch.stack([make(student[:, [s]], target[:, [s]], 2.0, one) for s in range(SAMPLES)], 1)
    expected = (each * weights).sum(1) / (weights > 0).sum(1).clamp(min=1)
    torch.testing.assert_close(make(student, target, 2.0, weights), expected, atol=1e-12, rtol=1e-12)
    assert expected[2] == 0
    assert (expected[:2] > 0).all()


def test_correlation_among_samples_counts_each_sample_seen_once():
    student, teacher, weights = scene(5)
    target = (teacher / 2).softmax(-1)
    within = Correlation(beta=0.0, gamma=1.0)
    found = within(student, target, 2.0, weights)
    rows = weights[0].nonzero().flatten()
    alone = within(student[:1, rows], target[:1, rows], 2.0, torch.ones(1, len(rows)))
    torch.testing.assert_close(found[:1], alone)
    assert found[0] > 1e-3
    assert found[1] == found[2] == 0  # one sample, and none


@every_loss
def test_teachers_get_no_gradient(loss):
    make, _ = LOSSES[loss]
    student, teacher, weights = scene(2)
    student.requires_grad_()
    teacher.requires_grad_()
    make(student, teacher.softmax(-1), 2.0, weights).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


# --- any of them, anywhere -------------------------------------------------------------------------

WAYS = {
    "shared": lambda loss: SharedLogits(loss=loss, temperature=2.0),
    "shared, auxiliary": lambda loss: SharedLogits(loss=loss, into="auxiliary"),
    "shared, all": lambda loss: SharedLogits(loss=loss, samples="all"),
    "chain": lambda loss: MultiHeadDistillation(loss=loss, temperature=2.0),
}


@every_loss
def test_knowledge_measures_with_the_loss_that_it_was_given(loss):
    """The main head, every auxiliary head, or each head of the chain; every teacher's weight counts."""
    make, _ = LOSSES[loss]
    student = Classes(draw(0, 2, SAMPLES, WIDTH), draw(1, 2, 3, SAMPLES, WIDTH), draw(2, 2, SAMPLES, 4))
    targets = {
        name: Target(draw(seed, 2, SAMPLES, WIDTH).softmax(-1), draw(seed, 2, SAMPLES).abs(), True)
        for seed, name in enumerate(("main", "head1", "head2", "head3"), 3)
    }

    def distance(logits: Tensor, name: str) -> Tensor:
        return make(logits, targets[name].values, 2.0, targets[name].weight)

    heads = student.auxiliary.unbind(1)
    main = SharedLogits(loss=make, temperature=2.0).loss(student, targets)
    assert torch.equal(main, distance(student.logits, "main"))
    auxiliary = SharedLogits(loss=make, temperature=2.0, into="auxiliary").loss(student, targets)
    torch.testing.assert_close(auxiliary, sum(distance(head, "main") for head in heads))
    chain = MultiHeadDistillation(loss=make, temperature=2.0).loss(student, targets)
    torch.testing.assert_close(chain, sum(distance(head, f"head{h}") for h, head in enumerate(heads, 1)))


def test_unless_told_otherwise_it_is_divergence():
    assert isinstance(SharedLogits().distance, KullbackLeibler)
    assert isinstance(MultiHeadDistillation().distance, KullbackLeibler)


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_each_is_interchangeable_and_changes_the_weights(way):
    """Six losses, six encoders, none of them the one that nobody taught; the default is the first."""

    def run(loss: Any, *, alone: bool = False) -> Tensor:
        cohort = Cohort(fleets(1, 1, heads=2, drop=0.0), CLASSES, vectorize="never")
        knowledge = None if alone else WAYS[way](loss)
        callback = DecentralizedCallback(knowledge, None, Ring(), schedule(knowledge_every=2))
        fit(cohort, callback, max_epochs=1, limit_val_batches=0)
        weights = cohort.student("cameras/0").net[0].weight.detach().clone()  # type: ignore[union-attr,index]
        assert weights.isfinite().all()
        return weights

    ends = {name: run(make) for name, (make, _) in LOSSES.items()}
    assert torch.equal(run(None), ends["kl"])
    ends["alone"] = run(None, alone=True)
    names = list(ends)
    for i, one in enumerate(names):
        for two in names[:i]:
            assert not torch.allclose(ends[one], ends[two], atol=1e-6), (one, two)
