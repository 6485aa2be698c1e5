"""Confidence: how sure a speaker is of what it says about a sample (Lambda of Zhmoginov et al. 2023).

Each rule reads logits ``[..., classes]`` and gives one number for each sample; greater is surer.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mmkd.functional.classification import log_softmax, softmax


def max_probability(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """The greatest class probability, between 1/classes and 1."""
    return 1 / (logits - logits.amax(-1, keepdim=True)).exp().sum(-1)


def entropy(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """exp(-entropy), between 1/classes and 1: 1/n where n classes are equally likely."""
    log_p = log_softmax(logits)
    return (log_p.exp() * log_p).sum(-1).exp()


def margin(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """Difference of the two greatest class probabilities, between 0 and 1."""
    first, second = softmax(logits).topk(2, -1).values.unbind(-1)
    return first - second
