"""Distillation losses: closed forms in float64, limits, and what is undefined."""

import math

import pytest
import torch
from torch import Tensor

from mmkd.functional.distillation import (
    decouple,
    dist,
    dkd,
    embedding,
    kd,
    logit_matching,
    logit_standardised,
    mutual,
)
from mmkd.functional.random import generator

PEERS, SAMPLES, CLASSES = 3, 6, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "logits"), dtype=torch.float64)


def logits(seed: int = 0) -> Tensor:
    return draw(PEERS, SAMPLES, CLASSES, seed=seed)


def masks() -> Tensor:
    """The first peer sees all samples, the second four of them, the third none."""
    seen = torch.ones(PEERS, SAMPLES, dtype=torch.bool)
    seen[1, [1, 4]] = False
    seen[2] = False
    return seen


def whole(student: Tensor, teacher: Tensor, seen: Tensor | None = None) -> Tensor:
    """Mutual learning from as many speakers as there are peers, each hearing the two others."""
    everything = torch.ones(teacher.shape[:2], dtype=torch.bool)
    return mutual(student, teacher, ~torch.eye(len(student), dtype=torch.bool), everything, seen=seen)


# Every loss as (student, teacher logits, seen) -> a scalar for each peer.
LOSSES = {
    "kd": lambda s, t, seen=None: kd(s, (t / 2).softmax(-1), temperature=2.0, seen=seen),
    "logit_matching": lambda s, t, seen=None: logit_matching(s, t, seen=seen),
    "dkd": lambda s, t, seen=None: dkd(s, (t / 2).softmax(-1), temperature=2.0, seen=seen),
    "logit_standardised": lambda s, t, seen=None: logit_standardised(s, t, temperature=2.0, seen=seen),
    "dist": lambda s, t, seen=None: dist(s, (t / 2).softmax(-1), temperature=2.0, seen=seen),
    "embedding": lambda s, t, seen=None: embedding(s, t, seen=seen),
    "mutual": whole,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
own_teacher = pytest.mark.parametrize("loss", [LOSSES[n] for n in LOSSES if n != "mutual"])


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), x)[0]


# --- laws that all keep ----------------------------------------------------------------------------


@every_loss
def test_a_perfect_student_scores_zero_and_any_other_more(loss):
    z = logits()[:1].expand(PEERS, -1, -1)
    torch.testing.assert_close(loss(z, z), z.new_zeros(PEERS), atol=1e-10, rtol=0)
    assert (loss(logits(1), z) > 1e-3).all()


@every_loss
def test_gradient_is_that_of_the_loss(loss):
    student, teacher = logits().requires_grad_(), logits(1)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, masks()), student)


@every_loss
def test_nothing_seen_is_zero_with_zero_gradient(loss):
    student = logits().requires_grad_()
    result = loss(student, logits(1), masks())
    assert result[2] == 0
    assert (gradient(result, student)[2] == 0).all()


@every_loss
def test_masking_equals_removing(loss):
    student, teacher, seen = logits(), logits(1), masks()
    rest = seen[1].nonzero().flatten()
    torch.testing.assert_close(loss(student, teacher, seen)[1], loss(student[:, rest], teacher[:, rest])[1])


@own_teacher
def test_what_is_unseen_does_not_matter(loss):
    seen = masks()
    student, teacher = logits(), logits(1)
    clean = student.clone().requires_grad_()
    expected = loss(clean, teacher, seen)
    student[~seen], teacher[~seen] = torch.nan, torch.inf
    student.requires_grad_()
    result = loss(student, teacher, seen)
    assert torch.equal(result, expected)
    assert torch.equal(gradient(result, student), gradient(expected, clean))


@own_teacher
def test_peers_do_not_couple_bit_for_bit(loss):
    student, teacher, seen = logits().float().requires_grad_(), logits(1).float(), masks()
    together = loss(student, teacher, seen)
    slope = gradient(together, student)
    for k in range(PEERS):
        lone = student[k : k + 1].detach().clone().requires_grad_()
        alone = loss(lone, teacher[k : k + 1], seen[k : k + 1])
        assert torch.equal(alone[0], together[k])
        assert torch.equal(gradient(alone, lone)[0], slope[k])


@every_loss
def test_teachers_get_no_gradient(loss):
    student, teacher = logits().requires_grad_(), logits(1).requires_grad_()
    loss(student, teacher).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(loss, dtype):
    student, teacher = (20 * logits()).to(dtype), (20 * logits(1)).to(dtype)
    student.requires_grad_()
    result = loss(student, teacher)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(student.float(), teacher.float()), rtol=1e-2, atol=1e-2)
    assert gradient(result, student).isfinite().all()


# --- kd and its limit ------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_is_its_formula_and_its_gradient_the_law(temperature):
    student, seen = logits().requires_grad_(), masks()
    p = (logits(1) / temperature).softmax(-1)
    loss = kd(student, p, temperature=temperature, seen=seen)
    q = (student / temperature).softmax(-1).detach()
    expected = []
    for k in range(PEERS):
        shown = seen[k].nonzero().flatten().tolist()
        total = sum(p[k, s, c] * math.log(p[k, s, c] / q[k, s, c]) for s in shown for c in range(CLASSES))
        expected.append(temperature**2 * float(total) / max(len(shown), 1))
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0)
    number = seen.sum(-1).clamp(min=1).double()[:, None, None]
    law = (temperature / number) * (q - p) * seen[..., None]
    torch.testing.assert_close(gradient(loss, student), law, atol=1e-12, rtol=0)


def test_kd_with_a_certain_teacher_is_cross_entropy():
    student, label = logits(), torch.randint(CLASSES, (PEERS, SAMPLES), generator=generator(2))
    certain = torch.nn.functional.one_hot(label, CLASSES).double()
    cross_entropy = -student.log_softmax(-1).gather(-1, label[..., None]).mean((1, 2))
    torch.testing.assert_close(kd(student, certain, temperature=1.0), cross_entropy)


def test_kd_at_high_temperature_is_half_of_logit_matching():
    """T^2 KL = |d|^2 / 2C + O(1/T) for zero-mean differences d of logits; gradients follow."""
    student, teacher, t = logits().requires_grad_(), logits(1), 1e4
    hot = kd(student, (teacher / t).softmax(-1), temperature=t)
    match = logit_matching(student, teacher)
    torch.testing.assert_close(hot, match / 2, rtol=10 / t, atol=1e-6)
    slope = gradient(hot, student)
    torch.testing.assert_close(slope, gradient(match, student) / 2, rtol=0, atol=10 / t)
    difference = (student - teacher).detach()
    difference -= difference.mean(-1, keepdim=True)
    torch.testing.assert_close(slope, difference / (SAMPLES * CLASSES), rtol=0, atol=10 / t)


def test_logit_matching_ignores_a_shift():
    student, teacher = logits(), logits(1)
    shift = draw(PEERS, SAMPLES, 1, seed=2)
    torch.testing.assert_close(logit_matching(student + shift, teacher), logit_matching(student, teacher))


# --- the others ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_decoupled_parts_make_up_kd(temperature):
    student, p = logits(), (logits(1) / temperature).softmax(-1)
    target = torch.randint(CLASSES, (PEERS, SAMPLES), generator=generator(3))
    tckd, nckd = decouple(student, p, target, temperature=temperature)
    p_target = p.gather(-1, target[..., None])[..., 0]
    parts = temperature**2 * (tckd + (1 - p_target) * nckd).mean(-1)
    torch.testing.assert_close(parts, kd(student, p, temperature=temperature), atol=1e-10, rtol=0)


def test_dkd_equals_kd_when_its_weights_make_it_so():
    """A teacher with the same p_target everywhere, and beta = 1 - p_target."""
    rest = draw(PEERS, SAMPLES, CLASSES - 1, seed=1).softmax(-1)
    p = torch.cat([torch.full((PEERS, SAMPLES, 1), 0.6, dtype=torch.float64), 0.4 * rest], -1)
    # 0.4 times a probability is below 0.6, so the first class is the teacher's argmax: the default target.
    loss = dkd(logits(), p, temperature=1.0, alpha=1.0, beta=0.4)
    torch.testing.assert_close(loss, kd(logits(), p, temperature=1.0), atol=1e-10, rtol=0)


def test_decouple_with_a_certain_teacher_is_finite():
    student = (100 * logits()).float().requires_grad_()
    target = torch.zeros(PEERS, SAMPLES, dtype=torch.long)
    certain = torch.nn.functional.one_hot(target, CLASSES).float()
    tckd, nckd = decouple(student, certain, target, temperature=1.0)
    assert (nckd == 0).all()
    torch.testing.assert_close(tckd, -student.log_softmax(-1)[..., 0])
    assert gradient(tckd.sum() + nckd.sum(), student).isfinite().all()


def test_standardising_removes_shift_and_scale():
    student, teacher = logits(), logits(1)
    loss = logit_standardised(student, teacher, temperature=2.0)
    moved = logit_standardised(3 * student + 1, 0.5 * teacher - 7, temperature=2.0)
    # The 1e-7 beside the deviation is what scale leaves behind.
    torch.testing.assert_close(loss, moved, atol=1e-5, rtol=0)
    assert (logit_standardised(2 * teacher + 3, teacher, temperature=2.0) < 1e-10).all()


def test_standardising_uses_the_unbiased_deviation():
    """(1, 3) has mean 2 and unbiased deviation sqrt 2, so it becomes -+1/sqrt 2."""
    teacher = torch.tensor([[[1.0, 3.0]]], dtype=torch.float64)
    student = torch.zeros_like(teacher)
    odds = math.exp(math.sqrt(2))
    p = torch.tensor([1 / (1 + odds), odds / (1 + odds)], dtype=torch.float64)
    expected = math.log(2) + torch.xlogy(p, p).sum()
    torch.testing.assert_close(
        logit_standardised(student, teacher, temperature=1.0)[0], expected, atol=1e-7, rtol=0
    )


def test_standardising_equal_logits_has_a_finite_gradient():
    student = torch.zeros(1, 2, CLASSES, requires_grad=True)
    loss = logit_standardised(student, logits()[:1, :2].float(), temperature=1.0)
    assert gradient(loss, student).isfinite().all()


def test_dist_is_one_minus_numpy_correlations():
    student, teacher = logits(), (logits(1) / 2).softmax(-1)
    q = (student / 2).softmax(-1)

    def correlation(a: Tensor, b: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a, b]))[0, 1])

    for k in range(PEERS):
        rows = sum(1 - correlation(q[k, s], teacher[k, s]) for s in range(SAMPLES)) / SAMPLES
        columns = sum(1 - correlation(q[k, :, c], teacher[k, :, c]) for c in range(CLASSES)) / CLASSES
        loss = dist(student, teacher, temperature=2.0, beta=0.7, gamma=0.3)[k]
        assert math.isclose(loss, 4 * (0.7 * rows + 0.3 * columns), abs_tol=1e-10)


def test_dist_with_two_classes_has_no_relation_among_classes():
    """(p, 1 - p) correlates with (q, 1 - q) by +1 or -1, whatever p and q: a term without gradient."""
    student, teacher = draw(2, 6, 2).requires_grad_(), draw(2, 6, 2, seed=1).softmax(-1)
    assert (dist(student, teacher, temperature=1.0, gamma=0.0) == 0).all()
    within = dist(student, teacher, temperature=1.0, beta=0.0)
    assert torch.equal(dist(student, teacher, temperature=1.0), within)
    assert gradient(within, student).abs().max() > 1e-3


@pytest.mark.parametrize("samples", [1, 2])
def test_dist_with_fewer_than_three_samples_has_no_relation_among_samples(samples):
    student = draw(2, samples, CLASSES).requires_grad_()
    teacher = draw(2, samples, CLASSES, seed=1).softmax(-1)
    assert (dist(student, teacher, temperature=1.0, beta=0.0) == 0).all()
    slope = gradient(dist(student, teacher, temperature=1.0), student)
    assert slope.isfinite().all()
    assert slope.abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [3, 7, 10, 1000])
def test_dist_with_a_constant_teacher_is_zero(dtype, classes):
    """Correlation with a constant is undefined; rounding must not turn it into a relation."""
    student = draw(2, 9, classes).to(dtype).requires_grad_()
    for logit in (0.0, 0.1, 5.3):
        teacher = torch.full((2, 9, classes), logit, dtype=dtype).softmax(-1)
        loss = dist(student, teacher, temperature=1.0)
        assert (loss == 0).all()
        assert (gradient(loss, student) == 0).all()


def test_mutual_is_the_mean_of_divergences_from_those_heard():
    student, others = logits(), draw(4, SAMPLES, CLASSES, seed=1)
    hears = torch.tensor([[True, True, False, True], [False, True, False, False], [False] * 4])
    spoke = torch.rand(4, SAMPLES, generator=generator(5)) < 0.6
    spoke[1, 0] = False
    for summed in (False, True):
        loss = mutual(student, others, hears, spoke, temperature=2.0, summed=summed)
        for k in range(PEERS):
            losses = []
            for s in range(SAMPLES):
                heard = [others[j, s] for j in range(4) if hears[k, j] and spoke[j, s]]
                each = [
                    kd(student[k : k + 1, s : s + 1], (z / 2).softmax(-1)[None, None], temperature=2.0)
                    for z in heard
                ]
                if each:
                    losses.append(sum(map(float, each)) / (1 if summed else len(each)))
            expected = sum(losses) / len(losses) if losses else 0.0
            assert math.isclose(loss[k], expected, abs_tol=1e-9)


def test_mutual_is_summed_or_averaged_with_the_same_gradient_but_for_the_number():
    student, others = logits().requires_grad_(), logits(1)
    hears, spoke = ~torch.eye(PEERS, dtype=torch.bool), torch.ones(PEERS, SAMPLES, dtype=torch.bool)
    mean = gradient(mutual(student, others, hears, spoke), student)
    total = gradient(mutual(student, others, hears, spoke, summed=True), student)
    torch.testing.assert_close(total, 2 * mean)


def test_embedding_is_two_minus_two_cosines():
    a, b = draw(PEERS, SAMPLES, 8), draw(PEERS, SAMPLES, 8, seed=1)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
    torch.testing.assert_close(embedding(a, b), (2 - 2 * cosine).mean(-1), atol=1e-10, rtol=0)
    torch.testing.assert_close(embedding(a, -3 * a), a.new_full((PEERS,), 4.0))


def test_embedding_of_nothing_has_a_finite_gradient():
    nothing = torch.zeros(1, 2, 8, requires_grad=True)
    assert gradient(embedding(nothing, torch.ones(1, 2, 8)), nothing).isfinite().all()
