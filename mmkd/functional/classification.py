"""The loss of a classifier on labelled samples, and its probabilities."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
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


def softmax(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Class probabilities. For few classes, where torch's kernel works row by row, some ten times faster."""
    raised = (logits - logits.amax(-1, keepdim=True)).exp_()
    return raised / raised.sum(-1, keepdim=True)


def log_softmax(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Logarithms of the class probabilities, as fast as ``softmax``, and with a gradient."""
    lower = logits - logits.amax(-1, keepdim=True)  # else an offset shared by all logits would cost digits
    return lower - lower.exp().sum(-1, keepdim=True).log()
