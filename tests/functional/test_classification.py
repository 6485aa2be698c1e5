"""Our cross-entropy is torch's, values and gradients, one student at a time and vectorised; labels of any kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mmkd.functional.classification import balanced, class_counts, cross_entropy, one_hot, soft_cross_entropy
from mmkd.types import NO_LABEL


def test_it_is_torchs() -> None:
    z = 40 * torch.randn(
        5, 7, 4, dtype=torch.float64
    )  # confident, where a naive exponential overflows in float32
    y = torch.randint(4, (5, 7))
    for peer in range(5):
        torch.testing.assert_close(cross_entropy(z[peer], y[peer]), F.cross_entropy(z[peer], y[peer]))
    ours, theirs = vmap(grad(cross_entropy))(z, y), vmap(grad(F.cross_entropy))(z, y)
    torch.testing.assert_close(ours, theirs)
    known = torch.rand(5, 7) < 0.6
    known[:, 0], known[4] = True, False  # nobody knows a label of the last
    unknown, none = torch.where(known, y, -100), torch.zeros_like(z[4])

    def torchs(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y, ignore_index=-100)

    ours, theirs = vmap(grad(cross_entropy))(z, unknown, known), vmap(grad(torchs))(z[:4], unknown[:4])
    torch.testing.assert_close(ours, torch.cat([theirs, none[None]]))
    torch.testing.assert_close(cross_entropy(z[0], unknown[0], known[0]), torchs(z[0], unknown[0]))
    assert float(cross_entropy(z[4], unknown[4], known[4])) == 0
    assert bool(cross_entropy(1e4 * torch.tensor([[1.0, -1.0]]), torch.tensor([1])).isfinite())


def soft(batch: int = 6) -> tuple[Tensor, Tensor]:
    """Logits, and probabilities of four classes."""
    stream = torch.Generator().manual_seed(0)
    z = torch.randn(2, batch, 4, generator=stream, dtype=torch.float64)
    return z[0], z[1].softmax(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothed_hard_labels_are_torchs(smoothing: float) -> None:
    z, _ = soft()
    y = torch.tensor([0, 3, 1, 1, 2, 0])
    ours = soft_cross_entropy(z, one_hot(y, z), smoothing=smoothing)
    torch.testing.assert_close(ours, F.cross_entropy(z, y, label_smoothing=smoothing))


def test_weights_multiply_the_loss_of_their_class_and_the_mean_is_over_samples() -> None:
    """Torch's sum over samples is ours, and ours is divided by their number: not by the sum of weights."""
    z, _ = soft()
    y, weight = torch.tensor([0, 3, 1, 1, 2, 0]), torch.tensor([2.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    for smoothing in (0.0, 0.2):
        ours = soft_cross_entropy(z, one_hot(y, z), weight, smoothing=smoothing)
        whole = F.cross_entropy(z, y, weight, label_smoothing=smoothing, reduction="sum")
        torch.testing.assert_close(ours, whole / len(y))
    # So the loss of a batch is the mean of those of its halves, whichever classes they hold.
    halves = [soft_cross_entropy(z[h], one_hot(y[h], z[h]), weight) for h in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(soft_cross_entropy(z, one_hot(y, z), weight), sum(halves) / 2)


def test_soft_labels_are_a_divergence_and_their_entropy() -> None:
    """-sum s log p = KL(s || p) + H(s), so it is least, H(s), where p is s, and there without a slope."""
    z, s = soft()
    entropy = -(s * s.log()).sum(-1).mean()
    divergence = F.kl_div(z.log_softmax(-1), s, reduction="batchmean")
    torch.testing.assert_close(soft_cross_entropy(z, s), divergence + entropy)
    right = s.log().requires_grad_()
    loss = soft_cross_entropy(right, s)
    torch.testing.assert_close(loss.detach(), entropy)
    assert float(torch.autograd.grad(loss, right)[0].abs().max()) < 1e-15


def test_samples_without_a_label_are_left_out_of_the_mean() -> None:
    z, s = soft()
    z.requires_grad_()
    weight, known = torch.arange(4, dtype=torch.float64), [0, 2, 5]
    y = torch.tensor([1, NO_LABEL, 3, NO_LABEL, NO_LABEL, 0])
    holes = s.clone()
    holes[[1, 3], 0] = torch.nan
    holes[4] = torch.nan
    for labels in (one_hot(y, z), holes):
        found = soft_cross_entropy(z, labels, weight, smoothing=0.1)
        alone = soft_cross_entropy(z[known], labels[known], weight, smoothing=0.1)
        torch.testing.assert_close(found, alone)
        slope = torch.autograd.grad(found, z)[0]
        assert bool(slope.isfinite().all())
        assert slope.any(1).nonzero()[:, 0].tolist() == known
    assert soft_cross_entropy(z, torch.full_like(s, torch.nan)).item() == 0


def test_counts_of_classes() -> None:
    """What is no class is not counted: missing labels, fractions, values beyond shares."""
    cases: list[tuple[Any, list[float]]] = [
        ([0, 2, 2, NO_LABEL, 1], [1, 1, 2]),
        ([0.0, 2.0, 0.5, torch.nan], [1, 0, 1]),
        ([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [torch.nan] * 3], [1.25, 0.75, 0.0]),
        ([[1, 0, 1], [1, NO_LABEL, 0]], [2, 0, 1]),
        ([[3.5, -1.0, 0.0]], [0, 0, 0]),
        ([[0.5, 0.5]], [0, 0, 0]),
        (torch.zeros(0, dtype=torch.long), [0, 0, 0]),
    ]
    for y, counts in cases:
        assert class_counts(torch.as_tensor(y), 3).tolist() == counts


def test_balanced_weights_have_a_mean_of_one_over_the_samples() -> None:
    """1, 0 and 3 samples of two classes that are there: 4 / (2 * 1), nothing, 4 / (2 * 3)."""
    weight = balanced(torch.tensor([1, 0, 3]))
    torch.testing.assert_close(weight, torch.tensor([2.0, 0.0, 2 / 3]))
    assert float(weight @ torch.tensor([1.0, 0.0, 3.0])) == pytest.approx(4)
    assert balanced(torch.zeros(3)).tolist() == [0, 0, 0]
