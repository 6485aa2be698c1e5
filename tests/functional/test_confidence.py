"""Confidence rules by hand, their bounds, and the order that they agree on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd.functional.confidence import entropy, margin, max_probability
from mmkd.functional.random import generator

RULES = [max_probability, entropy, margin]
every_rule = pytest.mark.parametrize("rule", RULES)


def draw(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(shape, generator=generator(seed, "confidence"), dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (max_probability, 1 / 2),
        # The entropy of (1/2, 1/4, 1/4) is 3/2 bits, so it might be one of 2^(3/2) classes.
        (entropy, 2**-1.5),
        (margin, 1 / 2 - 1 / 4),
    ],
)
def test_by_hand(rule, expected):
    """Logits log (2, 1, 1) + 7: probabilities 1/2, 1/4 and 1/4."""
    logits = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64).log() + 7
    assert math.isclose(rule(logits).item(), expected, abs_tol=1e-12)


@every_rule
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_of_no_idea_and_of_certainty(rule, classes):
    least = 0.0 if rule is margin else 1 / classes
    nothing = torch.zeros(2, 5, classes, dtype=torch.float64)
    torch.testing.assert_close(rule(nothing), nothing.new_full((2, 5), least), atol=1e-12, rtol=0)
    certain = nothing.clone()
    certain[..., 1] = 1000.0
    torch.testing.assert_close(rule(certain), nothing.new_ones(2, 5), atol=1e-12, rtol=0)


@every_rule
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 12), scale=st.floats(0, 300))
def test_lies_between_no_idea_and_certainty(rule, seed, classes, scale):
    """Whatever is added to all logits, and in whatever order the classes stand."""
    logits = draw(seed, 3, 4, classes, scale=scale)
    sure = rule(logits)
    least = 0.0 if rule is margin else 1 / classes
    assert sure.shape == (3, 4)
    assert (sure >= least - 1e-12).all()
    assert (sure <= 1 + 1e-12).all()
    order = torch.randperm(classes, generator=generator(seed))
    torch.testing.assert_close(rule(logits[..., order] - 11), sure, atol=1e-10, rtol=0)


@every_rule
def test_what_is_added_to_all_logits_changes_nothing_in_single_precision(rule):
    """Multiples of 1/256 stay exact beside 2^14, so whoever takes the greatest off first loses nothing.

    Else the surest of two speakers would depend on an offset that no softmax sees.
    """
    logits = ((256 * draw(2, 20, 5)).round() / 256).float()
    torch.testing.assert_close(rule(logits + 2.0**14), rule(logits), atol=1e-6, rtol=0)


@every_rule
def test_sharper_logits_are_surer(rule):
    """Scaling a row up moves probability to its greatest class, and lowers its entropy."""
    logits = draw(0, 50, 4, scale=1.0)
    for factor in (1.5, 4.0):
        assert (rule(factor * logits) > rule(logits)).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_of_two_classes_all_three_rank_alike(seed):
    """With p the greater probability they are p, p^p (1 - p)^(1 - p) and 2 p - 1: all grow with p."""
    logits = draw(seed, 40, 2)
    p = max_probability(logits)
    torch.testing.assert_close(margin(logits), 2 * p - 1, atol=1e-12, rtol=0)
    both = (torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).exp()
    torch.testing.assert_close(entropy(logits), both, atol=1e-12, rtol=0)
    order = p.argsort()
    for rule in (entropy, margin):
        assert (rule(logits)[order].diff() >= -1e-12).all()


def test_of_three_classes_they_may_rank_differently():
    """(0.5, 0.5, 0) is more certain by entropy, (0.6, 0.2, 0.2) by the other two."""
    tied = torch.tensor([0.5, 0.5, 1e-9], dtype=torch.float64).log()
    ahead = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64).log()
    assert entropy(tied) > entropy(ahead)  # 1/2 against exp(-0.950) = 0.387
    assert max_probability(tied) < max_probability(ahead)
    assert margin(tied) < margin(ahead)


def test_a_tie_of_the_two_best_has_no_margin():
    assert margin(torch.tensor([[4.0, 4.0, -3.0]])).item() == 0.0


@every_rule
def test_what_is_no_number_is_no_confidence(rule):
    """Whoever compares it with a threshold finds it below."""
    logits = draw(1, 3, 4)
    logits[0, 1], logits[1, 2] = torch.nan, torch.inf
    sure = rule(logits)
    assert not (sure[:2] >= 0.0).any()
    assert sure[2] >= 0.0
