"""Multi-Headed Distillation by hand: who says what, who is taught what, and the gradients of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.functional.random import generator
from mmkd.knowledge import (
    Consensus,
    EveryTeacher,
    Heard,
    Knowledge,
    MeanLogit,
    MeanProbability,
    MostConfident,
    MultiHeadDistillation,
)
from mmkd.types import Classes, Predictions
from tests.tiny import CLASSES

SAMPLES, DIM = 4, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "multi-head"), dtype=torch.float64)


def predictions(peers: int = 1, heads: int = 2, *, seed: int = 0, classes: int = CLASSES) -> Predictions:
    """Leaves, so that gradients can be asked for."""
    return Classes(
        draw(peers, SAMPLES, classes, seed=seed).requires_grad_(),
        draw(peers, heads, SAMPLES, classes, seed=seed + 1).requires_grad_(),
        draw(peers, SAMPLES, DIM, seed=seed + 2).requires_grad_(),
    )


def said_by(knowledge: Knowledge, predicted: Predictions, silent: Tensor | None = None) -> dict[str, Heard]:
    """What peers say, all about all samples but the ``silent`` ones ``[speakers, samples]``."""
    spoke = torch.ones(predicted.logits.shape[:2], dtype=torch.bool)
    spoke = spoke if silent is None else spoke & ~silent
    return {n: Heard(said.values.detach(), spoke) for n, said in knowledge.speak(predicted).items()}


def others(speakers: int) -> tuple[Tensor, Tensor]:
    """The first peer listens, and the others are all heard."""
    own = torch.eye(speakers, dtype=torch.bool)[:1]
    return ~own, own


def only(predicted: Predictions, peer: int) -> Predictions:
    """One peer's predictions, as leaves."""
    return Classes(*(t[peer : peer + 1].detach().clone().requires_grad_() for t in predicted))


def slopes(loss: Tensor, predicted: Predictions) -> list[Tensor]:
    found = torch.autograd.grad(loss.sum(), list(predicted), allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, predicted, strict=True)]


# --- what is said ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "level", "expected"),
    [
        (0, "below", [0]), (1, "below", [0]), (2, "below", [0, 1]), (4, "below", [0, 1, 2, 3]),
        (0, "same", []), (1, "same", [1]), (2, "same", [1, 2]), (4, "same", [1, 2, 3, 4]),
    ],
)  # fmt: skip
def test_heads_that_somebody_may_learn_from_are_said(heads: int, level: Any, expected: list[int]) -> None:
    """The last auxiliary head teaches nobody in the chain; at the same level the main one does not."""
    predicted = predictions(3, heads)
    said = MultiHeadDistillation(level=level).speak(predicted)
    assert list(said) == [f"head{h}" for h in expected]
    whole = torch.cat([predicted.logits[:, None], predicted.auxiliary], 1)
    assert all(torch.equal(said[f"head{h}"].values, whole[:, h]) for h in expected)


def test_embeddings_are_said_by_direction_if_they_are_taught() -> None:
    predicted = predictions(3)
    both = MultiHeadDistillation(nu_emb=0.1).speak(predicted)
    assert list(both) == ["head0", "head1", f"embedding{DIM}"]
    directions = predicted.embedding / predicted.embedding.square().sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(both[f"embedding{DIM}"].values, directions, rtol=0, atol=1e-14)
    assert list(MultiHeadDistillation(nu_emb=0.1, nu_aux=0.0).speak(predicted)) == [f"embedding{DIM}"]


def test_only_heads_are_logits() -> None:
    knowledge = MultiHeadDistillation(nu_emb=1.0)
    assert {n: said.logits for n, said in knowledge.speak(predictions()).items()} == {
        "head0": True, "head1": True, f"embedding{DIM}": False,
    }  # fmt: skip


# --- what is taught --------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "step"), [("below", 1), ("same", 0)])
def test_a_head_is_taught_by_the_heads_below_or_beside_it(level: Any, step: int) -> None:
    knowledge = MultiHeadDistillation(level=level, teacher=MeanProbability(), temperature=2.0)
    predicted = predictions(3, 2)
    hears = torch.tensor([[False, True, True], [False, False, True]])
    own = torch.tensor([[True, False, False], [False, True, False]])
    targets = knowledge.listen(said_by(knowledge, predicted), hears, own)
    assert list(targets) == ["head1", "head2"]
    whole = torch.cat([predicted.logits[:, None], predicted.auxiliary], 1).detach()
    soft = (whole / 2).softmax(-1)
    for head in (1, 2):
        said = soft[:, head - step]
        expected = torch.stack([(said[1] + said[2]) / 2, said[2]])
        torch.testing.assert_close(targets[f"head{head}"].values, expected, rtol=0, atol=2.0**-37)
        assert (targets[f"head{head}"].weight == 1).all()


def test_its_own_head_below_may_be_among_the_candidates() -> None:
    """Of the first sample the listener's own is surest, of the second the other's."""
    z = torch.tensor([[[4.0, 0, 0], [1.0, 0, 0]], [[0, 2.0, 0], [0, 3.0, 0]]])
    heard = {"head0": Heard(z, torch.ones(2, 2, dtype=torch.bool))}
    hears, own = others(2)
    chosen = {
        flag: MultiHeadDistillation(self_target=flag).listen(heard, hears, own)["head1"].values[0]
        for flag in (False, True)
    }
    assert torch.equal(chosen[False], z[1].softmax(-1))
    assert torch.equal(chosen[True], torch.stack([z[0, 0], z[1, 1]]).softmax(-1))


def test_a_head_learns_from_those_who_have_the_head_below() -> None:
    """The second speaker has three heads and the third only one; the fourth listener hears the third alone."""
    knowledge = MultiHeadDistillation(teacher=MeanProbability())
    rich, poor = predictions(1, 3, seed=3), predictions(1, 1, seed=9)
    heard = {}
    for name, (values, _) in knowledge.speak(rich).items():
        has = values.new_zeros(4, SAMPLES, CLASSES)
        spoke = torch.zeros(4, SAMPLES, dtype=torch.bool)
        has[1], spoke[1] = values[0].detach(), True
        if name in knowledge.speak(poor):
            has[2], spoke[2] = knowledge.speak(poor)[name].values[0].detach(), True
        heard[name] = Heard(has, spoke)
    assert list(heard) == ["head0", "head1", "head2"]
    hears = torch.tensor([[False, True, True, False], [False, False, True, False]])
    own = torch.tensor([[True, False, False, False], [False, False, False, True]])
    targets = knowledge.listen(heard, hears, own)
    a, b = rich.logits[0].softmax(-1), poor.logits[0].softmax(-1)
    close = {"rtol": 0, "atol": 2.0**-37}
    torch.testing.assert_close(targets["head1"].values, torch.stack([(a + b) / 2, b]), **close)
    for h in (2, 3):
        alone = rich.auxiliary[0, h - 2].softmax(-1)
        torch.testing.assert_close(targets[f"head{h}"].values[0], alone, **close)
        assert targets[f"head{h}"].weight[:, 0].tolist() == [1, 0]
    # What a listener is not told, or has no head for, moves nothing.
    student = predictions(2, 4, seed=20)
    found = slopes(knowledge.loss(student, targets), student)[1]
    moved = [[bool(found[k, h].count_nonzero()) for h in range(4)] for k in range(2)]
    assert moved == [[True, True, True, False], [True, False, False, False]]
    short = predictions(2, 1, seed=20)
    expected = knowledge.distance(
        short.auxiliary[:, 0], targets["head1"].values, 1.0, targets["head1"].weight
    )
    assert torch.equal(knowledge.loss(short, targets), expected)


def test_the_main_head_is_taught_nothing() -> None:
    knowledge = MultiHeadDistillation(nu_emb=1.0)
    predicted = predictions(3)
    hears, own = others(3)
    student = only(predicted, 0)
    main, auxiliary, embedding = slopes(
        knowledge.loss(student, knowledge.listen(said_by(knowledge, predicted), hears, own)), student
    )
    assert not main.count_nonzero()
    assert auxiliary[0].count_nonzero() == auxiliary[0].numel()
    assert embedding.count_nonzero() == embedding.numel()


# --- samples on which the student is surest --------------------------------------------------------


def sure(*probabilities: float) -> Tensor:
    """Logits ``[samples, 2]`` of the probabilities of the first of two classes."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([p, 1 - p], -1).log()


@pytest.mark.parametrize("teacher", [MostConfident(), MeanProbability(), EveryTeacher()])
def test_where_the_student_is_surest_nothing_is_taught(teacher: Consensus) -> None:
    """Greatest probabilities of the student 0.9, 0.6, 0.9, 0.8, silence; a teacher that it does not hear is sure.

    Of its teachers: 0.8 and 0.7, so it is skipped; 0.7 and 0.5, so it is taught; 0.95 (of the other
    class) and 0.6, taught; the first is silent and the second 0.7, skipped; 0.6 and 0.5, and the
    student itself says nothing there, taught.
    """
    said = torch.stack(
        [
            sure(0.9, 0.6, 0.1, 0.8, 0.99),
            sure(0.8, 0.3, 0.05, 0.999, 0.6),
            sure(0.3, 0.5, 0.6, 0.7, 0.5),
            sure(0.999, 0.999, 0.999, 0.999, 0.999),
        ]
    )
    spoke = torch.ones(4, 5, dtype=torch.bool)
    spoke[0, 4] = spoke[1, 3] = False
    hears, own = torch.tensor([[False, True, True, False]]), torch.tensor([[True, False, False, False]])
    heard = {"head0": Heard(said, spoke)}
    target = MultiHeadDistillation(ignore_poor=True, teacher=teacher).listen(heard, hears, own)["head1"]
    plain = MultiHeadDistillation(teacher=teacher).listen(heard, hears, own)["head1"]
    taught = torch.tensor([[False, True, True, False, True]])
    assert torch.equal(target.weight != 0, taught)
    assert torch.equal(target.weight, plain.weight * taught)
    assert torch.equal(target.values, plain.values)
    student = Classes(sure(0.5).expand(1, 5, 2), draw(1, 1, 5, 2).requires_grad_(), draw(1, 5, DIM))
    (slope,) = torch.autograd.grad(
        MultiHeadDistillation(ignore_poor=True, teacher=teacher).loss(student, {"head1": target}).sum(),
        student.auxiliary,
    )
    assert torch.equal(slope[0, 0].count_nonzero(-1) > 0, taught[0])


def test_who_is_as_sure_as_all_it_hears_is_taught_nothing() -> None:
    """Peers that have just been averaged say the same: nobody has anything to teach. A surer one has."""
    said = torch.stack(
        [sure(0.7, 0.7), sure(0.7, 0.75), sure(0.3, 0.6)]
    )  # 0.3 is as sure, of the other class
    heard = {"head0": Heard(said, torch.ones(3, 2, dtype=torch.bool))}
    hears, own = others(3)
    target = MultiHeadDistillation(ignore_poor=True).listen(heard, hears, own)["head1"]
    assert target.weight.tolist() == [[0.0, 1.0]]


def test_how_sure_a_head_is_may_be_measured_otherwise() -> None:
    """Of (0.5, 0.498, 0.002) and (0.45, 0.275, 0.275) which is surer, and so which is not taught?

    Greatest probability: 0.5 > 0.45. Entropy: 0.71 < 1.07. In both the first. Margin: 0.002 < 0.175.
    """
    p = torch.tensor([[[0.5, 0.498, 0.002]], [[0.45, 0.275, 0.275]]], dtype=torch.float64)
    heard = {"head0": Heard(p.log(), torch.ones(2, 1, dtype=torch.bool))}
    own = torch.eye(2, dtype=torch.bool)
    weights = {}
    for rule in ("max_probability", "entropy", "margin"):
        knowledge = MultiHeadDistillation(ignore_poor=True, confidence=rule)
        weights[rule] = knowledge.listen(heard, ~own, own)["head1"].weight[:, 0].tolist()
    assert weights == {"max_probability": [0, 1], "entropy": [0, 1], "margin": [1, 0]}


# --- gradients -------------------------------------------------------------------------------------


def silences() -> Tensor:
    """Of four speakers, the first being the listener: on the second sample one is silent, on the third all."""
    silent = torch.zeros(4, SAMPLES, dtype=torch.bool)
    silent[2, 1] = silent[:, 2] = True
    return silent


def test_every_teacher_has_the_gradient_of_the_sum_of_the_losses() -> None:
    """Teachers' probabilities are multiples of 1/16, so that adding them up rounds nothing."""
    knowledge = MultiHeadDistillation(teacher=EveryTeacher(), nu_aux=0.7)
    sixteenths = torch.randint(1, 7, (4, SAMPLES, 2), generator=generator(4)).double() / 16
    p = torch.cat([sixteenths, 1 - sixteenths.sum(-1, keepdim=True)], -1)
    silent = silences()
    hears, own = others(4)
    targets = knowledge.listen({"head0": Heard(p.log(), ~silent)}, hears, own)
    student = predictions(1, 1, seed=30)
    got = slopes(knowledge.loss(student, targets), student)[1]
    log_q = student.auxiliary[0, 0].log_softmax(-1)
    divergences = torch.stack([(p[j] * (p[j].log() - log_q)).sum(-1) for j in (1, 2, 3)])
    told = ~silent[1:]
    by_hand = 0.7 * (divergences * told).sum() / told.any(0).sum()
    torch.testing.assert_close(got, slopes(by_hand, student)[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("teacher", [EveryTeacher(), MostConfident(), MeanProbability(), MeanLogit()])
def test_embeddings_have_the_gradient_of_the_sum_or_mean_of_squared_distances(teacher: Consensus) -> None:
    knowledge = MultiHeadDistillation(teacher=teacher, nu_emb=0.3)
    predicted, silent = predictions(4, 2, seed=40), silences()
    hears, own = others(4)
    targets = knowledge.listen(said_by(knowledge, predicted, silent), hears, own)
    student = only(predicted, 0)
    got = slopes(knowledge.loss(student, targets), student)[2]

    def unit(x: Tensor) -> Tensor:
        return x / x.square().sum(-1, keepdim=True).sqrt()

    losses = []
    for s in range(SAMPLES):
        heard = [unit(predicted.embedding[j, s].detach()) for j in (1, 2, 3) if not silent[j, s]]
        if heard:
            apart = [(unit(student.embedding[0, s]) - e).square().sum() for e in heard]
            losses.append(sum(apart) / (1 if isinstance(teacher, EveryTeacher) else len(apart)))
    assert len(losses) == SAMPLES - 1
    by_hand = 0.3 * torch.stack(losses).mean()
    expected = slopes(by_hand, student)[2]
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_the_loss_adds_up_its_weighted_parts() -> None:
    predicted = predictions(3, 2, seed=50)
    hears, own = others(3)
    student = only(predicted, 0)

    def loss(emb: float, aux: float) -> Tensor:
        knowledge = MultiHeadDistillation(nu_emb=emb, nu_aux=aux)
        return knowledge.loss(student, knowledge.listen(said_by(knowledge, predicted), hears, own))

    assert loss(1.0, 0.0) > 0.1
    assert loss(0.0, 1.0) > 0.1
    expected = 0.25 * loss(1.0, 0.0) + 3.0 * loss(0.0, 1.0)
    torch.testing.assert_close(loss(0.25, 3.0), expected, rtol=1e-14, atol=0)
    chain = MultiHeadDistillation()
    targets = chain.listen(said_by(chain, predicted), hears, own)
    parts = [
        chain.distance(student.auxiliary[:, h - 1], target.values, 1.0, target.weight)
        for h, target in ((1, targets["head1"]), (2, targets["head2"]))
    ]
    torch.testing.assert_close(loss(0.0, 1.0), parts[0] + parts[1], rtol=1e-14, atol=0)


# --- who diverges is silent ------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf])
def test_a_diverged_teacher_does_not_hide_that_the_student_is_surest(garbage: float) -> None:
    """0.9 of its own against 0.6: skipped, whatever a third has to say that is no number."""
    said = torch.stack([sure(0.9), sure(0.6), sure(0.5)])
    said[2, 0, 0] = garbage
    hears, own = others(3)
    heard = {"head0": Heard(said, torch.ones(3, 1, dtype=torch.bool))}
    target = MultiHeadDistillation(ignore_poor=True).listen(heard, hears, own)["head1"]
    assert target.weight.tolist() == [[0.0]]
