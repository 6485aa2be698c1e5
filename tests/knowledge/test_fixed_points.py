"""Where distillation comes to rest: perfect students, the limit of heat, and powers of the mixing matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import PublicSamples, Samples
from mmkd.functional.random import generator
from mmkd.knowledge import (
    Consensus,
    Correlation,
    Decoupled,
    DistillationLoss,
    EveryTeacher,
    Heard,
    Knowledge,
    KullbackLeibler,
    LogitDistance,
    LogitMatching,
    MeanLogit,
    MeanProbability,
    MostConfident,
    MultiHeadDistillation,
    SharedLogits,
    Standardised,
)
from mmkd.students.base import Classifier
from mmkd.topology import Complete, DirectedCycle, Path, Ring, Star, Topology
from mmkd.types import Classes, Predictions
from tests.grids import each_once
from tests.knowledge.worlds import OWNED, Apart, Outcome, fleets, learn
from tests.paths import PATHS
from tests.tiny import CLASSES, FEATURES, TinyDataDouble, sgd


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "fixed"), dtype=torch.float64)


def lesson(knowledge: Knowledge, student: Predictions, teachers: Predictions) -> tuple[Tensor, list[Tensor]]:
    """The loss of one student that hears ``teachers``, and its slope by main, auxiliary logits and embedding."""
    leaves = Classes(*(t.detach().clone().requires_grad_() for t in student))
    everybody = Classes(*(torch.cat(pair) for pair in zip(student, teachers, strict=True)))
    spoke = torch.ones(everybody.logits.shape[:2], dtype=torch.bool)
    own = torch.eye(len(spoke), dtype=torch.bool)[:1]
    heard = {name: Heard(said.values, spoke) for name, said in knowledge.speak(everybody).items()}
    loss = knowledge.loss(leaves, knowledge.listen(heard, ~own, own))
    found = torch.autograd.grad(loss.sum(), list(leaves), allow_unused=True)
    return loss[0].detach(), [
        torch.zeros_like(t) if g is None else g for g, t in zip(found, leaves, strict=True)
    ]


# --- a perfect student -----------------------------------------------------------------------------

LOSSES = [
    KullbackLeibler(), LogitMatching(), LogitDistance(), Decoupled(), Standardised(), Correlation(),
]  # fmt: skip
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
SAMPLES, WIDTH, HEADS = 5, 4, 3


def pair(heads: int = HEADS) -> tuple[Predictions, Predictions]:
    """A student whose head h is the teacher's head h - 1, and whose embedding points where the teacher's does."""
    z, embedding = draw(1, heads + 1, SAMPLES, WIDTH), draw(1, SAMPLES, 6, seed=1)
    teacher = Classes(z[:, 0], z[:, 1:], embedding)
    return Classes(z[:, 0], z[:, :-1], 3 * embedding), teacher


def assert_at_rest(loss: Tensor, slopes: list[Tensor], distance: DistillationLoss, tolerance: float) -> None:
    assert abs(float(loss)) <= tolerance
    # The absolute value has a kink at zero: rounding decides its slope, which is no greater than 2 / B C.
    limit = 2 * HEADS / (SAMPLES * WIDTH) if isinstance(distance, LogitDistance) else tolerance
    assert max(float(slope.abs().max()) for slope in slopes) <= limit


def knowledge_of(kind: str, loss: DistillationLoss, temperature: float, rule: Consensus) -> Knowledge:
    settings: dict[str, Any] = {"loss": loss, "temperature": temperature}
    if kind == "multi-head":
        return MultiHeadDistillation(teacher=rule, nu_emb=2.0, **settings)
    return SharedLogits(consensus=rule, into=kind, include_self=False, **settings)  # type: ignore[arg-type]


@every_loss
@pytest.mark.parametrize("kind", ["main", "auxiliary", "multi-head"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_perfect_student_is_at_rest(loss: DistillationLoss, kind: str, temperature: float) -> None:
    student, teacher = pair()
    if kind == "auxiliary":  # all heads learn from the teacher's main head
        student = student._replace(auxiliary=teacher.logits[:, None].expand(1, HEADS, -1, -1))
    knowledge = knowledge_of(kind, loss, temperature, MostConfident())
    # The direction of the embedding is a sum rounded to multiples of 2^-36; nothing else is rounded.
    tolerance = 2 * 2.0**-36 if kind == "multi-head" else 1e-12
    assert_at_rest(*lesson(knowledge, student, teacher), loss, tolerance)
    worse, _ = lesson(knowledge, student, Classes(*(t.flip(1) for t in teacher)))
    assert worse > 1e-2


@pytest.mark.parametrize("rule", [MeanProbability(), MeanLogit(), EveryTeacher()])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_whatever_the_rule_that_makes_one_teacher_of_one(rule: Consensus, temperature: float) -> None:
    """Their sums are rounded to multiples of 2^-36, which T^2 KL and its slope see at most T^2 C times."""
    student, teacher = pair()
    knowledge = knowledge_of("multi-head", KullbackLeibler(), temperature, rule)
    assert_at_rest(
        *lesson(knowledge, student, teacher),
        knowledge.distance,  # type: ignore[attr-defined]
        HEADS * temperature**2 * WIDTH * 2.0**-36,
    )


class Twins(Apart):
    """Everybody owns the same samples, and reads all of them in every step."""

    def __init__(self) -> None:
        super().__init__(batch_size=OWNED)

    def private(self, peer: str, split: str) -> Any:
        if split != "train":
            return self.held_out
        x = draw(OWNED, FEATURES, seed=7)
        return Samples(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def twins(knowledge: Knowledge | None, topology: Topology | None, rate: float) -> dict[str, Tensor]:
    """The first of three that begin alike, after six ticks."""

    def alike(cohort: Cohort) -> None:
        for name in cohort.names[1:]:
            cohort.student(name).load_state_dict(cohort.student(cohort.names[0]).state_dict())

    peers = {"cameras": fleets(3, 1, drop=0.0, heads=0, optimizer=sgd(rate))["cameras"]}
    return learn(knowledge, topology, peers=peers, data=Twins(), before=alike).state("cameras/0")


@cache
def twin_alone(rate: float) -> dict[str, Tensor]:
    return twins(None, None, rate)


@each_once(topology=[Complete(), Star()], rule=[MeanProbability(), MostConfident(), EveryTeacher()])
def test_twins_teach_each_other_nothing(topology: Topology, rule: Consensus) -> None:
    """What is left of alpha * private + (1 - alpha) * nothing is a private loss at half the learning rate.

    In single precision probabilities are off by 6e-8; six steps at half the rate of 0.5, on features of
    at most 2 or so, make 2e-7 of it.
    """
    taught = twins(SharedLogits(consensus=rule, include_self=False), topology, 0.5)
    alone, usual = twin_alone(0.25), twin_alone(0.5)
    for name in ("main.weight", "net.0.weight"):
        torch.testing.assert_close(taught[name], alone[name], rtol=0, atol=2e-7)
        assert (taught[name] - usual[name]).abs().max() > 1e-2


# --- heat ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["main", "multi-head"])
@pytest.mark.parametrize("rule", [MostConfident(), MeanProbability(), MeanLogit(), EveryTeacher()])
def test_at_high_temperature_divergence_is_half_of_logit_matching(kind: str, rule: Consensus) -> None:
    """T^2 KL pulls by d / B C, d being the difference of zero-mean logits, and its square's mean by 2 d / B C.

    With u = z - mean z, softmax(z / T) = (1 + u / T + (u^2 - mean u^2) / 2 T^2 + ...) / C, so what is
    left out of T (p_S - p_T) / B is at most max u^2 / (B C T); twice that leaves room for the dots.
    Of several teachers all rules but the choice make the mean of logits; ``EveryTeacher`` counts two.
    Rounding of means to multiples of 2^-36 is multiplied by T.
    """
    heat, teachers = 1e4, 1 if isinstance(rule, MostConfident) else 2
    student = pair(1)[0]
    taught = Classes(*(draw(teachers, *t.shape[1:], seed=5) for t in student))
    own = student.logits if kind == "main" else student.auxiliary[:, 0]
    u = torch.cat([own, taught.logits])
    u = u - u.mean(-1, keepdim=True)
    count = teachers if isinstance(rule, EveryTeacher) else 1
    law = count * (u[0] - u[1:].mean(0)) / (SAMPLES * WIDTH)
    rest = count * (2 * float(u.square().max()) / heat + WIDTH * heat * 2.0**-36) / (SAMPLES * WIDTH)
    for loss, factor in ((KullbackLeibler(), 1), (LogitMatching(), 2)):
        knowledge = knowledge_of(kind, loss, heat, rule)
        main, auxiliary, _ = lesson(knowledge, student, taught)[1]
        slope = main[0] if kind == "main" else auxiliary[0, 0]
        torch.testing.assert_close(slope, factor * law, rtol=0, atol=factor * rest)
    assert rest < 1e-2 * law.abs().max()


# --- tables ----------------------------------------------------------------------------------------

ROWS, PEERS = 6, 5
ROUNDING = 8 * 2.0**-24
"""Of one hop: logits travel in single precision, and their softmax and its mean are taken in it."""


class Table(Classifier):
    """Logits of every sample by themselves, and a main head that never moves."""

    modalities = ("image",)

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=ROWS, **kwargs)
        heads: list[Any] = [self.main, *self.aux]
        for head in heads:
            nn.init.uniform_(head.weight, -0.5, 0.5)
            nn.init.zeros_(head.bias)  # and so it stays: samples would share it

    def embed(self, x: Tensor) -> Tensor:
        return x

    def configure_optimizers(self) -> Any:
        heads: list[Any] = [*self.aux]
        return self._optimizer([head.weight for head in heads])


class Spoken(Table):
    """The same, heard."""

    modalities = ("audio",)


class Numbers(TinyDataDouble):
    """A sample is its number, one-hot; all are public, and read in every step."""

    def private(self, peer: str, split: str) -> Any:
        return Samples(torch.eye(ROWS, dtype=torch.float64), torch.arange(ROWS) % CLASSES)

    def public(self, split: str) -> Any:
        return PublicSamples(dict.fromkeys(("image", "audio"), torch.eye(ROWS, dtype=torch.float64)))


def read(out: Outcome, peer: str) -> list[Tensor]:
    """Probabilities of all heads of a peer, the main one first."""
    student: Any = out.cohort.student(peer)
    return [head.weight.detach().T.softmax(-1) for head in (student.main, *student.aux)]


def chain(
    knowledge: Knowledge,
    topology: Topology,
    *,
    rate: float,
    ticks: int,
    vectorize: str,
    before: Callable[[Cohort], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Probabilities of main heads, ``[peers, ...]``, and of auxiliary ones, ``[heads, peers, ...]``."""
    peers = {"cameras": Fleet(lambda n: Table(n, heads=HEADS, optimizer=sgd(rate)), PEERS)}
    data = Numbers(batch_size=ROWS)
    out = learn(
        knowledge, topology, peers=peers, ticks=ticks, vectorize=vectorize, data=data, block=50, before=before
    )
    main, *heads = (
        torch.stack(parts) for parts in zip(*(read(out, n) for n in out.cohort.names), strict=True)
    )
    return main, torch.stack(heads)


def mixing(topology: Topology, itself: bool) -> Tensor:
    """Row-normalised adjacency."""
    w = topology.adjacency([str(k) for k in range(PEERS)], 0).double()
    w = w + torch.eye(PEERS, dtype=torch.float64) if itself else w
    return w / w.sum(1, keepdim=True)


def assert_powers(w: Tensor, main: Tensor, heads: Tensor, rest: float = 0.0) -> None:
    """Head h is W^h times the main heads; W is a mean, so a hop carries errors on and adds its own."""
    expected = main
    for h in range(HEADS):
        before, expected = expected, torch.einsum("kj,jsc->ksc", w, expected)
        torch.testing.assert_close(heads[h], expected, rtol=0, atol=(h + 1) * ROUNDING + rest)
        assert (expected - main).abs().max() > 1e-2
        # Only who hears everybody and itself, all alike, has heard everything after one hop.
        assert (expected - before).abs().max() > 1e-2 or (h > 0 and torch.allclose(w @ w, w))


GRAPHS = [Path(), Ring(), DirectedCycle(), Complete()]


@each_once(vectorize=["never", "always"], path=PATHS, topology=GRAPHS, itself=[False, True])
def test_tables_reach_powers_of_the_mixing_matrix_in_one_tick_a_head(
    vectorize: str, topology: Topology, itself: bool
) -> None:
    """The gradient of logit matching is 2 d / S C, so a step at rate S C / 2 takes d away, at once.

    Head 1 is there after the first tick, and head h, which learns from heads that came to rest one tick
    before it, after h of them.
    """
    knowledge = MultiHeadDistillation(teacher=MeanProbability(), loss=LogitMatching(), self_target=itself)
    main, heads = chain(knowledge, topology, rate=ROWS * CLASSES / 2, ticks=HEADS, vectorize=vectorize)
    assert_powers(mixing(topology, itself), main, heads)
    _, early = chain(knowledge, topology, rate=ROWS * CLASSES / 2, ticks=HEADS - 1, vectorize=vectorize)
    assert (early[:-1] - heads[:-1]).abs().max() < HEADS * ROUNDING
    assert (early[-1] - heads[-1]).abs().max() > 1e-2


@pytest.mark.leanest_too
@pytest.mark.parametrize("vectorize", ["always", pytest.param("never", marks=pytest.mark.long)])
def test_a_head_is_the_mean_of_those_who_have_the_head_below(vectorize: str) -> None:
    """Two microphones with one auxiliary head say their main head alone, so of heads 1 and 2 only cameras speak."""
    rate = ROWS * CLASSES / 2
    peers = {
        "cameras": Fleet(lambda n: Table(n, heads=HEADS, optimizer=sgd(rate)), 3),
        "microphones": Fleet(lambda n: Spoken(n, heads=1, optimizer=sgd(rate)), 2),
    }
    knowledge = MultiHeadDistillation(teacher=MeanProbability(), loss=LogitMatching())
    out = learn(knowledge, peers=peers, ticks=HEADS, vectorize=vectorize, data=Numbers(batch_size=ROWS))
    found = {name: read(out, name) for name in out.cohort.names}
    for name, heads in found.items():
        others = [found[other] for other in out.cohort.names if other != name]
        for h in range(1, len(heads)):
            below = [theirs[h - 1] for theirs in others if h == 1 or len(theirs) > 2]
            assert len(below) == (4 if h == 1 else 2)
            expected = torch.stack(below).mean(0)
            # Heads below came to rest in earlier ticks, so it is one hop from what they are now.
            torch.testing.assert_close(heads[h], expected, rtol=0, atol=ROUNDING)


@each_once(samples=["batch", "all"], teacher=[MeanProbability(), EveryTeacher()])
def test_each_step_of_divergence_by_hand(samples: Any, teacher: Consensus) -> None:
    """At rate 2 S (of two teachers S) a step is z - 2 (p(z) - target), the target being W times p of the head below.

    What is said of the whole public set after a tick is learned in the next, so it begins a tick later.
    The Jacobian of z - 2 p(z) is no greater than 1, and that of p than 1/2, so errors of logits obey
    e_h(n + 1) <= e_h(n) + e_h-1(n) + 2 sqrt(C) of a hop's rounding: 28 sqrt(3) for the last of three heads
    after four steps, and half of it, less than 25, for its probabilities.
    """
    ticks, topology = 4, Ring()
    rate = 2.0 * ROWS / (2 if isinstance(teacher, EveryTeacher) else 1)
    knowledge, w = MultiHeadDistillation(teacher=teacher, samples=samples), mixing(topology, itself=False)
    began: list[Tensor] = []

    def begin(cohort: Cohort) -> None:
        for name in cohort.names:
            student: Any = cohort.student(name)
            began.append(
                torch.stack([head.weight.detach().T.clone() for head in (student.main, *student.aux)])
            )

    _, found = chain(
        knowledge, topology, rate=rate, ticks=ticks + (samples == "all"), vectorize="always", before=begin
    )
    z = torch.stack(began, 1)  # [heads, peers, rows, classes]
    first = z.softmax(-1)[1:]
    for _ in range(ticks):
        p = z.softmax(-1)
        z = torch.cat([z[:1], z[1:] - 2 * (p[1:] - torch.einsum("kj,hjsc->hksc", w, p[:-1]))])
    torch.testing.assert_close(found, z.softmax(-1)[1:], rtol=0, atol=25 * ROUNDING)
    assert (found - first).abs().amax((1, 2, 3)).min() > 1e-2


@pytest.mark.long
@pytest.mark.parametrize("samples", ["batch", "all"])
@pytest.mark.parametrize(
    ("teacher", "topology"),
    [(MeanProbability(), Path()), (EveryTeacher(), Ring())],
    ids=["mean on a path", "every on a ring"],
)
def test_divergence_comes_to_rest_at_powers_of_the_mixing_matrix(
    samples: Any, teacher: Consensus, topology: Topology
) -> None:
    """At rate 2 S (of two teachers S) a step is z - 2 (p(z) - target): a contraction of zero-mean logits.

    The Jacobian of softmax is between p_min and 1/2 there, and all logits begin within 1/2 of zero, so
    p_min is at least 1 / (1 + 2 e) and the factor at most r = 1 - 2 p_min = 0.69. Targets are no further off
    than half the logits behind them, so e_h(n + 1) <= r e_h(n) + e_h-1(n): after n steps head 3 is off
    by less than 3 n^2 r^(n - 2) e(0), and e(0) is at most sqrt(3). For n = 100 that is below 1e-11.
    """
    ticks = 100
    contraction = 1 - 2 / (1 + 2 * torch.e)
    left = 3 * ticks**2 * contraction ** (ticks - 2) * 3**0.5
    assert left < 1e-11
    rate = 2.0 * ROWS / (2 if isinstance(teacher, EveryTeacher) else 1)
    knowledge = MultiHeadDistillation(teacher=teacher, samples=samples)
    main, heads = chain(knowledge, topology, rate=rate, ticks=ticks, vectorize="always")
    assert_powers(mixing(topology, itself=False), main, heads, left)
