"""Distillation losses: tensors with a leading peer axis in, one scalar per peer out.

Each is a mean over the samples that the peer sees (none: zero), so peers do not couple: the gradient
of a sum over peers is each peer's own. ``seen`` may weigh samples: each loss is then multiplied by its
weight, and the sum divided by the number of positive weights. What an unseen sample holds does not
matter. Teachers get no gradient. Half precision is computed and returned in float32.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmkd.functional.classification import log_softmax, softmax
from mmkd.functional.consensus import heard_sum

Seen: TypeAlias = Bool[Tensor, "peers samples"] | Float[Tensor, "peers samples"]
"""Which samples count, as booleans, or how much each counts, as numbers that are not negative."""


def kd(
    student: Float[Tensor, "peers samples classes"],
    teacher: Float[Tensor, "peers samples classes"],
    *,
    temperature: float,
    seen: Seen | None = None,
) -> Float[Tensor, " peers"]:
    """T^2 KL(teacher || softmax(student / T)), summed over classes (Hinton et al. 2015).

    Its gradient is (T / B)(p_student - p_teacher) for B samples seen.

    Args:
        student: logits.
        teacher: probabilities, already at temperature T.
        temperature: T.
        seen: samples that count, and by how much; all, if left out.
    """
    student, teacher = _ready(student, teacher, seen)
    return temperature**2 * _mean(_kl(teacher, log_softmax(student / temperature)), seen)


def logit_matching(
    student: Float[Tensor, "peers samples classes"],
    teacher: Float[Tensor, "peers samples classes"],
    *,
    seen: Seen | None = None,
) -> Float[Tensor, " peers"]:
    """Mean squared difference of zero-mean logits (Ba & Caruana 2014): twice the limit of ``kd`` as T grows.

    Args:
        student: logits.
        teacher: logits.
        seen: samples that count, and by how much; all, if left out.
    """
    student, teacher = _ready(student, teacher, seen)
    difference = student - teacher
    return _mean((difference - difference.mean(-1, keepdim=True)).square().mean(-1), seen)


def logit_distance(
    student: Float[Tensor, "peers samples classes"],
    teacher: Float[Tensor, "peers samples classes"],
    *,
    seen: Seen | None = None,
) -> Float[Tensor, " peers"]:
    """Mean absolute difference of zero-mean logits, FedMD's digest (Li & Wang 2019).

    FedMD takes logits as they are; their mean is arbitrary, for no prediction depends on it.

    Args:
        student: logits.
        teacher: logits.
        seen: samples that count, and by how much; all, if left out.
    """
    student, teacher = _ready(student, teacher, seen)
    difference = student - teacher
    return _mean((difference - difference.mean(-1, keepdim=True)).abs().mean(-1), seen)


def prototype(
    student: Float[Tensor, "peers samples dim"],
    teacher: Float[Tensor, "peers samples dim"],
    *,
    seen: Seen | None = None,
) -> Float[Tensor, " peers"]:
    """Mean squared distance of embeddings from the prototype of their class (Tan et al. 2022, eq. 8)."""
    student, teacher = _ready(student, teacher, seen)
    return _mean((student - teacher).square().mean(-1), seen)


def decouple(
    student: Float[Tensor, "peers samples classes"],
    teacher: Float[Tensor, "peers samples classes"],
    target: Int[Tensor, "peers samples"],
    *,
    temperature: float,
) -> tuple[Float[Tensor, "peers samples"], Float[Tensor, "peers samples"]]:
    """Divergence of target against the rest, and among the rest, for each sample (Zhao et al. 2022, eq. 5).

    KL(teacher || student) is the first plus (1 - p_target) times the second, with the teacher's
    p_target. A teacher that is certain of the target says nothing about the rest: the second is zero.

    Args:
        student: logits.
        teacher: probabilities, already at temperature T.
        target: one class of each sample.
        temperature: T.
    """
    student, teacher = _ready(student, teacher, None)
    chosen = target[..., None]
    log_p = log_softmax(student / temperature)
    log_target = log_p.gather(-1, chosen)
    log_rest = log_p.scatter(-1, chosen, -torch.inf).logsumexp(-1, keepdim=True)
    others = teacher.scatter(-1, chosen, 0.0)
    rest = others.sum(-1, keepdim=True)
    binary = torch.cat([teacher.gather(-1, chosen), rest], -1)
    among_rest = others / rest.masked_fill(rest == 0, 1.0)
    # The target's own entry is weighed by a zero, so its value does not matter.
    return _kl(binary, torch.cat([log_target, log_rest], -1)), _kl(among_rest, log_p - log_rest)


def dkd(
    student: Float[Tensor, "peers samples classes"],
    teacher: Float[Tensor, "peers samples classes"],
    *,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
    target: Int[Tensor, "peers samples"] | None = None,
    seen: Seen | None = None,
) -> Float[Tensor, " peers"]:
    """Decoupled distillation, T^2 (alpha TCKD + beta NCKD) (Zhao et al. 2022, eq. 7).

    Args:
        student: logits.
        teacher: probabilities, already at temperature T.
        temperature: T.
        alpha: weight of the target against the rest.
        beta: weight of the classes among the rest.
        target: one class of each sample; the teacher's most likely if left out, since public samples
            have no label.
        seen: samples that count, and by how much; all, if left out.
    """
    student, teacher = _ready(student, teacher, seen)
    chosen = teacher.argmax(-1) if target is None else target
    tckd, nckd = decouple(student, teacher, chosen, temperature=temperature)
    return temperature**2 * _mean(alpha * tckd + beta * nckd, seen)


def logit_standardised(
    student: Float[Tensor, "peers samples classes"],
    teacher: Float[Tensor, "peers samples classes"],
    *,
    temperature: float,
    seen: Seen | None = None,
) -> Float[Tensor, " peers"]:
    """``kd`` between logits of zero mean and unit (unbiased) deviation over classes (Sun et al. 2024).

    Args:
        student: logits.
        teacher: logits; the logarithm of positive probabilities serves as well.
        temperature: T, applied to both.
        seen: samples that count, and by how much; all, if left out.
    """
    student, teacher = _ready(student, teacher, seen)
    soft = softmax(_standardise(teacher) / temperature)
    return kd(_standardise(student), soft, temperature=temperature, seen=seen)


def dist(
    student: Float[Tensor, "peers samples classes"],
    teacher: Float[Tensor, "peers samples classes"],
    *,
    temperature: float,
    beta: float = 1.0,
    gamma: float = 1.0,
    seen: Seen | None = None,
) -> Float[Tensor, " peers"]:
    """T^2 (beta (1 - Pearson over classes) + gamma (1 - Pearson over samples)) (Huang et al. 2022).

    Weights of ``seen`` weigh the first term; the second correlates the samples seen, each with equal weight.

    A correlation over fewer than three values is +1, -1 or undefined, and
    one with a constant is undefined; neither has a gradient, so these terms are zero: the first with
    two classes, the second with fewer than three samples seen.

    Args:
        student: logits.
        teacher: probabilities, already at temperature T.
        temperature: T.
        beta: weight of the relation among classes, a mean over samples.
        gamma: weight of the relation among samples, a mean over classes.
        seen: samples that count, and by how much; all, if left out.
    """
    student, teacher = _ready(student, teacher, seen)
    probabilities = softmax(student / temperature)
    present = torch.ones_like(student[..., 0], dtype=torch.bool) if seen is None else seen != 0
    between = _mean(_uncorrelated(probabilities, teacher, torch.ones_like(student, dtype=torch.bool)), seen)
    columns = present[:, None].expand(-1, student.shape[-1], -1)
    within = _uncorrelated(probabilities.mT, teacher.mT, columns).mean(-1)
    return temperature**2 * (beta * between + gamma * within)


def mutual(
    student: Float[Tensor, "peers samples classes"],
    others: Float[Tensor, "speakers samples classes"],
    hears: Bool[Tensor, "peers speakers"],
    spoke: Bool[Tensor, "speakers samples"],
    *,
    temperature: float = 1.0,
    summed: bool = False,
    seen: Seen | None = None,
) -> Float[Tensor, " peers"]:
    """Mean over the others heard of T^2 KL(p_other || p_self) (Zhang et al. 2018, eq. 8).

    A sample counts for a peer only if somebody whom it hears spoke about it.

    Args:
        student: logits.
        others: logits.
        hears: whom each peer hears.
        spoke: on which samples a speaker spoke.
        temperature: T, applied to both; the paper has 1.
        summed: the sum over the others instead of their mean.
        seen: samples that count, and by how much; all, if left out.
    """
    soft = softmax(_full(others.detach()) / temperature)
    certainty = torch.xlogy(soft, soft).sum(-1, keepdim=True)
    # sum_j KL(p_j || q) = sum_j sum_c p_j log p_j - sum_c (sum_j p_j) log q: no peers x speakers tensor.
    total, count = heard_sum(torch.cat([soft, certainty], -1), hears, spoke)
    anybody = count > 0
    if not summed:
        total, count = total / count.masked_fill(~anybody, 1.0)[..., None], anybody.to(total.dtype)
    counts = anybody if seen is None else anybody * seen
    student, total = _ready(student, total.to(soft.dtype), counts)
    cross = (total[..., :-1] * log_softmax(student / temperature)).sum(-1)
    return temperature**2 * _mean(total[..., -1] - cross, counts)


def embedding(
    student: Float[Tensor, "peers samples dim"],
    teacher: Float[Tensor, "peers samples dim"],
    *,
    seen: Seen | None = None,
) -> Float[Tensor, " peers"]:
    """Squared distance of L2-normalised embeddings, 2 - 2 cos, between 0 and 4 (Zhmoginov et al. 2023)."""
    student, teacher = _ready(student, teacher, seen)
    return _mean((F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)).square().sum(-1), seen)


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _ready(student: Tensor, teacher: Tensor, seen: Seen | None) -> tuple[Tensor, Tensor]:
    student, teacher = _full(student), _full(teacher.detach())
    if seen is None or bool((seen != 0).all()):
        return student, teacher
    unseen = (seen == 0)[..., None]
    return student.masked_fill(unseen, 0.0), teacher.masked_fill(unseen, 0.0)


def _mean(losses: Float[Tensor, "peers samples"], seen: Seen | None) -> Float[Tensor, " peers"]:
    if seen is None:
        return losses.sum(-1) / max(losses.shape[-1], 1)
    count = (seen != 0).sum(-1).clamp(min=1)
    # An unseen sample's values were set to zero, and its loss times zero is zero.
    return (losses * seen).sum(-1) / count


def _kl(
    p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    # xlogy is several times slower. Where p is zero, the clamped logarithm is multiplied by zero.
    return (p * (p.clamp(min=torch.finfo(p.dtype).tiny).log() - log_q)).sum(-1)


def _standardise(logits: Tensor) -> Tensor:
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)


def _uncorrelated(
    a: Float[Tensor, "*batch values"],
    b: Float[Tensor, "*batch values"],
    present: Bool[Tensor, "*batch values"],
) -> Float[Tensor, "*batch"]:
    """1 - Pearson over the values present, zero where that is undefined or has no gradient."""
    number = present.sum(-1, keepdim=True)

    def centre(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.masked_fill(~present, 0.0).sum(-1, keepdim=True) / number.clamp(min=1)
        centred = (x - mean).masked_fill(~present, 0.0)
        power = centred.square().sum(-1)
        # What is left of a constant after subtracting its mean is rounding noise.
        noise = (16 * torch.finfo(x.dtype).eps) ** 2 * number[..., 0] * mean[..., 0].square()
        return centred, power, power > noise

    (x, xx, x_varies), (y, yy, y_varies) = centre(a), centre(b)
    defined = x_varies & y_varies & (number[..., 0] > 2)
    norms = (xx.masked_fill(~defined, 1.0) * yy.masked_fill(~defined, 1.0)).sqrt()
    return (1 - (x * y).sum(-1) / norms).masked_fill(~defined, 0.0)
