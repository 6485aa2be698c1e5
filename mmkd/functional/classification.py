"""The loss of a classifier on labelled samples, its probabilities, and counts of labels."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def cross_entropy(
    logits: Float[Tensor, "batch classes"],
    y: Int[Tensor, " batch"],
    labelled: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of log sum_c exp(z_c) - z_y, as ``torch.nn.functional.cross_entropy`` has it.

    Under ``vmap`` torch decomposes its own function in Python, a sixth of a small student's step.

    Args:
        logits: z.
        y: labels.
        labelled: samples over which the mean is, whatever label the others have; 0 if there is none.
    """
    if labelled is None:
        picked = logits.gather(-1, y[:, None])[:, 0]
        return (logits.logsumexp(-1) - picked).mean()
    picked = logits.gather(-1, y.clamp(min=0)[:, None])[:, 0]
    wrong = (logits.logsumexp(-1) - picked) * labelled
    return wrong.sum() / labelled.sum().clamp(min=1)


def soft_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    share: Float[Tensor, "batch classes"],
    weight: Float[Tensor, " classes"] | None = None,
    *,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean over samples of -sum_c w_c s_c log p_c, with s = (1 - smoothing) share + smoothing / classes.

    The sum over a batch is divided by the number of its labelled samples and not, as torch does for hard
    labels, by the sum of their classes' weights: so it is a mean whichever classes a batch holds.

    Args:
        logits: z, of which p is the softmax.
        share: probabilities of classes; a sample with NaN among them has no label.
        weight: w; 1, if left out.
        smoothing: how much of each label is spread over all classes alike (Szegedy et al. 2016).
    """
    labelled = ~share.isnan().any(-1)
    share = (1 - smoothing) * share.masked_fill(~labelled[:, None], 0.0) + smoothing / share.shape[-1]
    share = share * labelled[:, None] * (1.0 if weight is None else weight)
    return -(share * log_softmax(logits)).sum() / labelled.sum().clamp(min=1)


def one_hot(y: Int[Tensor, " batch"], like: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Labels as shares of 0 and 1, NaN where a label is below 0, which stands for none."""
    classes = torch.arange(like.shape[-1], device=y.device)
    return (y[:, None] == classes).to(like.dtype).masked_fill(y[:, None] < 0, torch.nan)


def class_counts(y: Shaped[Tensor, "samples ..."], num_classes: int) -> Shaped[Tensor, " classes"]:
    """How many samples of each class there are; of soft labels and of tags, the sum of their shares.

    Where labels are boxes ``[samples, slots, 5]``, objects are counted. What is no class is not: labels below
    0 and NaN, which stand for none, and values.
    """
    if y.dim() == 3 and y.shape[2] == 5:
        y = y[..., 4].flatten()
    if y.dim() == 2 and y.shape[1] == num_classes:
        known = (y >= 0) & (y <= 1)
        shares = bool((known | y.isnan() | (y < 0)).all())
        return y.masked_fill(~known, 0).sum(0) if shares else y.new_zeros(num_classes)
    if y.dim() != 1:
        return torch.zeros(num_classes, dtype=torch.long)
    if y.is_floating_point():
        y = y.where(y == y.floor(), -1).long()
    return torch.bincount(y.clamp(-1, num_classes) + 1, minlength=num_classes + 2)[1:-1]


def balanced(counts: Shaped[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """Weights in inverse proportion to counts, whose mean over the counted samples is 1.

    A class without samples has weight 0.
    """
    there = counts > 0
    return torch.where(there, counts.sum() / (there.sum() * counts.clamp(min=1e-12)), 0.0)


def softmax(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Class probabilities. For few classes, where torch's kernel works row by row, some ten times faster."""
    raised = (logits - logits.amax(-1, keepdim=True)).exp_()
    return raised / raised.sum(-1, keepdim=True)


def log_softmax(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Logarithms of the class probabilities, as fast as ``softmax``, and with a gradient."""
    lower = logits - logits.amax(-1, keepdim=True)  # else an offset shared by all logits would cost digits
    return lower - lower.exp().sum(-1, keepdim=True).log()
