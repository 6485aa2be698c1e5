"""Calibration, agreement and mean confidence by hand, and the laws that they keep."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from mmkd.functional.calibration import agreement, calibration_error, mean_confidence, temperature
from mmkd.functional.random import generator

X = torch.nan  # where a peer sees nothing


def sure(*confidences: float) -> Tensor:
    """One peer that names class 0 of three with these probabilities, ``[1, samples, 3]``."""
    first = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([first, (1 - first) * 2 / 3, (1 - first) / 3], -1)[None]


def labels(*right: int) -> Tensor:
    """Class 0 where ``sure`` is right, else class 1."""
    return 1 - torch.tensor([right])


def drawn(seed: int, peers: int = 3, samples: int = 40, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Probabilities and labels."""
    stream = generator(seed, "calibration")
    logits = 2 * torch.randn(peers, samples, classes, generator=stream, dtype=torch.float64)
    return logits.softmax(-1), torch.randint(classes, (peers, samples), generator=stream)


# --- temperature -----------------------------------------------------------------------------------


def surprise(logits: Tensor, y: Tensor, degrees: Tensor) -> Tensor:
    """Mean negative log-likelihood of each peer at a temperature of its own."""
    chances = (logits / degrees[:, None, None]).log_softmax(-1)
    return -chances.gather(-1, y[..., None]).mean((1, 2))


@given(st.integers(0, 10_000), st.floats(0.1, 5.0))
@settings(deadline=None, max_examples=15)
def test_labels_are_likeliest_at_the_temperature(seed: int, scale: float) -> None:
    """It is that of many tries, it grows with the logits, and peers do not look at one another."""
    logits = scale * drawn(seed)[0].log()
    y = torch.distributions.Categorical(logits=logits / (2 * scale)).sample()
    best = temperature(logits, y)
    least = surprise(logits, y, best)
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2.0):
        assert bool((surprise(logits, y, best * factor) > least - 1e-12).all())
    torch.testing.assert_close(temperature(logits * 3, y), best * 3, rtol=1e-8, atol=0)
    torch.testing.assert_close(temperature(logits[1:2], y[1:2]), best[1:2])
    torch.testing.assert_close(temperature(logits + 7, y), best, rtol=1e-8, atol=0)  # softmax forgets that


def test_temperature_by_hand_and_at_its_bounds() -> None:
    """Of two classes and logits +-d, of which a share q is right: 2d/T = log(q / (1 - q))."""
    logits = torch.tensor([[[2.0, -2.0]] * 4]).double()
    right = temperature(logits, torch.tensor([[0, 0, 0, 1]]))
    torch.testing.assert_close(right, torch.tensor([4 / math.log(3)]).double())
    assert float(temperature(logits, torch.zeros(1, 4, dtype=torch.long))) == pytest.approx(0.01)  # all right
    for labels in ([0, 0, 1, 1], [1, 1, 1, 0]):  # no better than guessing, and worse
        assert float(temperature(logits, torch.tensor([labels]))) == pytest.approx(100, rel=1e-6)


# --- calibration -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probabilities", "right", "bins", "expected"),
    [
        (sure(0.75, 0.75, 0.75, 0.75), (1, 1, 0, 1), 15, 0.0),  # right three times of four
        (sure(1.0, 1.0, 1.0), (0, 0, 0), 15, 1.0),  # always sure, and always wrong
        (sure(1.0, 1.0, 1.0), (1, 1, 1), 15, 0.0),
        # (0.4, 0.6]: half are right at 0.55, so 1/2 x 0.05; (0.8, 1]: all at 0.9, so 1/2 x 0.1.
        (sure(0.55, 0.55, 0.9, 0.9), (1, 0, 1, 1), 5, 0.075),
        # In one bin 3/4 are right at a mean of 0.725.
        (sure(0.55, 0.55, 0.9, 0.9), (1, 0, 1, 1), 1, 0.025),
        # A bin holds its upper edge: both are of (0.5, 0.75], and 1/2 - (0.6 + 0.75) / 2 is left.
        (sure(0.6, 0.75), (1, 0), 4, 0.175),
        (sure(0.6, 0.76), (1, 0), 4, 0.58),  # one bin each: (0.4 + 0.76) / 2
    ],
)
def test_calibration_error_by_hand(probabilities, right, bins, expected):
    (error,) = calibration_error(probabilities, labels(*right), bins=bins).tolist()
    assert math.isclose(error, expected, abs_tol=1e-12)


def test_calibration_errors_of_peers_do_not_mix():
    probabilities, y = drawn(0)
    alone = torch.cat([calibration_error(p[None], t[None]) for p, t in zip(probabilities, y, strict=True)])
    assert torch.equal(calibration_error(probabilities, y), alone)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_is_that_of_torchmetrics(bins):
    probabilities, y = drawn(1, samples=500)
    theirs = [
        multiclass_calibration_error(p, t, num_classes=4, n_bins=bins)
        for p, t in zip(probabilities, y, strict=True)
    ]
    ours = calibration_error(probabilities, y, bins=bins)
    torch.testing.assert_close(ours, torch.stack(theirs).double(), rtol=0, atol=1e-6)  # theirs are singles


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_laws_of_calibration_error(seed):
    """It lies between 0 and 1, names of classes are nothing to it, and finer bins hide less."""
    probabilities, y = drawn(seed)
    errors = {bins: calibration_error(probabilities, y, bins=bins) for bins in (1, 3, 15)}
    assert ((errors[15] >= 0) & (errors[15] <= 1)).all()
    # The triangle inequality: each bin of the coarser is a union of bins of the finer.
    assert (errors[1] <= errors[3] + 1e-12).all()
    assert (errors[3] <= errors[15] + 1e-12).all()
    order = torch.randperm(4, generator=generator(seed))
    torch.testing.assert_close(
        calibration_error(probabilities[..., order], order.argsort()[y]), errors[15], rtol=0, atol=1e-12
    )


def test_no_samples_have_no_calibration_error_and_no_bins_are_refused():
    assert calibration_error(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.long)).isnan().all()
    with pytest.raises(ValueError, match="bins is 0"):
        calibration_error(sure(0.5), labels(1), bins=0)


# --- agreement -------------------------------------------------------------------------------------


def test_agreement_by_hand():
    """The first two see three samples in common and name the same class in two of them, and so on."""
    named = torch.tensor([[0, 1, 2, 0], [0, 1, 0, 2], [1, 1, 1, 0], [1, 1, 1, 1]])
    shown = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    predictions = torch.nn.functional.one_hot(named, 3).float().where(shown[..., None], torch.tensor(X))
    expected = torch.tensor([[1, 2 / 3, 1, X], [2 / 3, 1, X, X], [1, X, 1, X], [X, X, X, X]])
    torch.testing.assert_close(agreement(predictions, shown), expected, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_laws_of_agreement(seed):
    """It is symmetric, 1 with oneself, depends on the most likely class alone, and hidden samples are nothing."""
    predictions, _ = drawn(seed)
    shown = torch.rand(predictions.shape[:2], generator=generator(seed)) < 0.7
    shared = agreement(predictions, shown)
    assert torch.equal(shared, shared.T)
    assert (shared.diagonal() == 1).all()
    assert ((shared >= 0) & (shared <= 1)).all()
    hidden = (3 * predictions - 1).masked_fill(~shown[..., None], X)
    assert torch.equal(agreement(hidden, shown), shared)


# --- confidence ------------------------------------------------------------------------------------


def test_mean_confidence_by_hand():
    """Over what a peer sees; who sees nothing has none."""
    logits = torch.cat([sure(0.5, 0.75, 0.99), sure(0.9, X, 0.6), sure(0.5, 0.5, 0.5)]).log() + 3
    shown = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 0]]).bool()
    expected = torch.tensor([0.625, 0.75, X], dtype=torch.float64)
    torch.testing.assert_close(mean_confidence(logits, shown), expected, equal_nan=True)
