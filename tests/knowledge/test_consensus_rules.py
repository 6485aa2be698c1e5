"""Consensus rules as factors: by hand on two or three speakers, and in whatever order they stand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.functional.confidence import entropy, margin, max_probability
from mmkd.functional.distillation import kd
from mmkd.functional.random import generator
from mmkd.knowledge import (
    Consensus,
    EntropyReduction,
    EveryTeacher,
    Heard,
    KullbackLeibler,
    MeanLogit,
    MeanProbability,
    MostConfident,
    SharedLogits,
    Target,
)
from mmkd.topology import Islands
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, fit, schedule, sgd

RULES: dict[str, Consensus] = {
    "mean": MeanProbability(),
    "sharpened": MeanProbability(sharpen=2.0),
    "aligned": MeanProbability(align=1.0),
    "weighed by probability": MeanProbability(confidence="max_probability"),
    "weighed by entropy": MeanProbability(confidence="entropy"),
    "weighed by margin": MeanProbability(confidence="margin"),
    "logits": MeanLogit(),
    "surest by probability": MostConfident(),
    "surest by entropy": MostConfident("entropy"),
    "surest by margin": MostConfident("margin"),
    "reduced": EntropyReduction(),
    "every teacher": EveryTeacher(),
}
every_rule = pytest.mark.parametrize("rule", RULES)

# Three speakers, one sample, three classes: probabilities in sixteenths.
SAID = torch.tensor([[[8, 4, 4]], [[1, 14, 1]], [[4, 4, 8]]], dtype=torch.float64) / 16
EVERYBODY = torch.ones(1, 3, dtype=torch.bool)


def heard(values: Tensor = SAID, spoke: Tensor | None = None) -> Heard:
    """Logits of probabilities, each speaker's with an offset of its own."""
    offset = torch.arange(len(values), dtype=values.dtype)[:, None, None]
    present = torch.ones(values.shape[:2], dtype=torch.bool) if spoke is None else spoke
    return Heard(values.log() + offset, present)


def close(found: Tensor, expected: Tensor, message: str | None = None) -> None:
    """To 1e-10 in double precision, to 1e-7 where a rule answers in single."""
    tolerance = 1e-10 if found.dtype == torch.float64 else 1e-7
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=0, msg=message)


def softmax(*logits: float) -> Tensor:
    odds = [math.exp(z) for z in logits]
    return torch.tensor([o / sum(odds) for o in odds], dtype=torch.float64)


def normalised(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64) / sum(numbers)


def scene(seed: int, speakers: int = 6) -> tuple[Heard, Tensor]:
    stream = generator(seed, "rules")
    values = 2 * torch.randn(speakers, 5, 4, generator=stream)
    spoke = torch.rand(speakers, 5, generator=stream) < 0.7
    return Heard(values, spoke), torch.rand(4, speakers, generator=stream) < 0.6


# --- by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Sums of the columns of SAID: 13, 22 and 13 of 48.
        (MeanProbability(), normalised(13, 22, 13)),
        (MeanProbability(sharpen=2.0), normalised(169, 484, 169)),
        (MeanProbability(sharpen=0.5), normalised(13**0.5, 22**0.5, 13**0.5)),
        # One sample among its like: every class is as likely as it is elsewhere.
        (MeanProbability(sharpen=2.0, align=1.0), normalised(1, 1, 1)),
        # The rarest class has 39/48 of an even share, the most frequent 66/48, whose inverse is 0.727.
        (MeanProbability(sharpen=2.0, align=0.73), normalised(1, 1, 1)),
        (MeanProbability(sharpen=2.0, align=0.72), normalised(169, 484, 169)),
        # Weights 8, 14 and 8: 64 + 14 + 32, 32 + 196 + 32, 32 + 14 + 64.
        (MeanProbability(confidence="max_probability"), normalised(110, 260, 110)),
        # Weights 4, 13 and 4: 32 + 13 + 16, 16 + 182 + 16, 16 + 13 + 32.
        (MeanProbability(confidence="margin"), normalised(61, 214, 61)),
        # The geometric mean: cube roots of 8 1 4, 4 14 4, 4 1 8.
        (MeanLogit(), normalised(32 ** (1 / 3), 224 ** (1 / 3), 32 ** (1 / 3))),
        (MostConfident(), normalised(1, 14, 1)),
        (MostConfident("margin"), normalised(1, 14, 1)),
        (MostConfident("entropy"), normalised(1, 14, 1)),
        (EntropyReduction(0.1), softmax(130 / 48, 220 / 48, 130 / 48)),
        (EntropyReduction(1.0), softmax(13 / 48, 22 / 48, 13 / 48)),
        (EveryTeacher(), normalised(13, 22, 13)),
    ],
)
def test_by_hand(rule, expected):
    target, weight, _ = rule.combine(heard(), EVERYBODY, 1.0)
    close(target[0, 0], expected)
    assert weight.tolist() == [[3.0 if isinstance(rule, EveryTeacher) else 1.0]]


def test_weighed_by_entropy_by_hand():
    """Entropies in bits: (1/2, 1/4, 1/4) has 3/2; of (1/16, 7/8, 1/16) it is 4/8 + 7/8 log2(8/7)."""
    second = 2 ** -(0.5 + 0.875 * math.log2(8 / 7))
    weights = torch.tensor([2**-1.5, second, 2**-1.5], dtype=torch.float64)
    expected = (SAID[:, 0] * weights[:, None]).sum(0) / weights.sum()
    target, _, _ = MeanProbability(confidence="entropy").combine(heard(), EVERYBODY, 1.0)
    close(target[0, 0], expected)


def test_two_speakers_at_a_temperature():
    """At T = 2 probabilities are square roots, normalised: of (9, 1)/10 it is (3, 1)/4, of (1, 4)/5 (1, 2)/3."""
    said = heard(torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]], dtype=torch.float64))
    both, a, b = torch.ones(1, 2, dtype=torch.bool), normalised(3, 1), normalised(1, 2)

    def at_two(rule: Consensus) -> Tensor:
        return rule.combine(said, both, 2.0).values[0, 0]

    close(at_two(MeanProbability()), (a + b) / 2)
    close(at_two(EveryTeacher()), (a + b) / 2)
    # The confidence, too, is that at the temperature: 3/4 and 2/3.
    close(at_two(MeanProbability(confidence="max_probability")), (a * 3 / 4 + b * 2 / 3) / (17 / 12))
    close(at_two(MeanProbability(confidence="margin")), (a * 1 / 2 + b * 1 / 3) / (5 / 6))
    # Logits ln 9 and ln 1/4 in favour of the first, their mean over 2.
    close(at_two(MeanLogit()), normalised((9 / 4) ** 0.25, 1))
    close(at_two(MostConfident()), a)
    # Reduction has a temperature of its own; the listener's makes the mean.
    mean = (a + b) / 2
    close(at_two(EntropyReduction(0.5)), softmax(2 * float(mean[0]), 2 * float(mean[1])))


def test_a_temperature_can_change_who_is_surest():
    """Two rivals against many: (0.50, 0.49, rest) beats (0.48, rest alike) when hot, and loses if cold.

    At T = 0.2 probabilities are fifth powers: 0.5^5 : 0.49^5 is nearly even, 0.48^5 is beyond all others.
    """
    rest = 10
    torn = torch.tensor([0.50, 0.49, *[0.01 / (rest - 1)] * (rest - 1)], dtype=torch.float64)
    alone = torch.tensor([0.48, *[0.52 / rest] * rest], dtype=torch.float64)
    said = Heard(torch.stack([torn, alone])[:, None].log(), torch.ones(2, 1, dtype=torch.bool))
    both = torch.ones(1, 2, dtype=torch.bool)
    torch.testing.assert_close(MostConfident().combine(said, both, 1.0).values[0, 0], torn)
    cold = MostConfident().combine(said, both, 0.2).values[0, 0]
    torch.testing.assert_close(cold, alone**5 / (alone**5).sum())


def test_entropy_reduction_at_one_is_not_the_identity():
    """softmax(p) of probabilities is flatter than p; at 0.1 it is sharper. T is read from the mean alone."""
    mean = MeanProbability().combine(heard(), EVERYBODY, 1.0).values
    for temperature in (0.1, 1.0):
        found = EntropyReduction(temperature).combine(heard(), EVERYBODY, 1.0).values
        torch.testing.assert_close(found, (mean / temperature).softmax(-1), atol=1e-12, rtol=0)
        assert bool((found.amax() > mean.amax()) == (temperature == 0.1))


def test_who_spoke_and_who_is_heard():
    """Of three samples the first is told by all, the second by one, the third by nobody heard."""
    values = SAID.expand(3, 3, 3)
    spoke = torch.tensor([[True, False, False], [True, True, False], [True, False, True]])
    hears = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    told = torch.tensor([[3, 1, 1], [2, 1, 0], [0, 0, 0]])
    for name, rule in RULES.items():
        target, weight, _ = rule.combine(heard(values, spoke), hears, 1.0)
        expected = told if name == "every teacher" else told.clamp(max=1)
        assert weight.tolist() == expected.tolist(), name
        assert target.isfinite().all(), name
        close(target.sum(-1), torch.ones(3, 3, dtype=torch.float64), name)
        # Where one speaks, it is believed, but for those that change what they heard.
        if name not in ("sharpened", "aligned", "reduced"):
            close(target[0, 1], SAID[1, 0], name)
            close(target[0, 2], SAID[2, 0], name)


def test_every_teacher_has_the_gradient_of_the_sum_of_losses():
    """n KL(mean || q) is the sum of the n KL(p_j || q) but for what the teachers disagree."""
    said, hears = scene(0)
    student = torch.randn(4, 5, 4, generator=generator(1)).requires_grad_()
    target, weight, _ = EveryTeacher().combine(said, hears, 2.0)
    found = torch.autograd.grad(KullbackLeibler()(student, target, 2.0, weight).sum(), student)[0]
    total = student.new_zeros(())
    for k in range(4):
        told = (hears[k, :, None] & said.spoke).any(0).sum()
        for j in range(6):
            seen = (said.spoke[j] & hears[k, j])[None]
            one = kd(student[k : k + 1], (said.values[j : j + 1] / 2).softmax(-1), temperature=2.0, seen=seen)
            total = total + one[0] * seen.sum() / told.clamp(min=1)
    torch.testing.assert_close(found, torch.autograd.grad(total, student)[0], atol=1e-6, rtol=1e-5)


# --- laws ------------------------------------------------------------------------------------------


@every_rule
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_speakers_changes_no_bit(rule, seed):
    said, hears = scene(seed)
    order = torch.randperm(6, generator=generator(seed, "order"))
    one = RULES[rule].combine(said, hears, 1.5)
    two = RULES[rule].combine(Heard(said.values[order], said.spoke[order]), hears[:, order], 1.5)
    assert torch.equal(one.values, two.values)
    assert torch.equal(one.weight, two.weight)


@every_rule
def test_the_order_and_company_of_listeners_changes_no_bit(rule):
    said, hears = scene(0)
    one = RULES[rule].combine(said, hears, 1.5)
    for k in range(4):
        alone = RULES[rule].combine(said, hears[k : k + 1], 1.5)
        assert torch.equal(alone.values[0], one.values[k])
        assert torch.equal(alone.weight[0], one.weight[k])


@every_rule
def test_identical_speakers_are_one(rule):
    said = heard(SAID[1:2].expand(3, 1, 3) + 0.0)
    found = RULES[rule].combine(said, EVERYBODY, 1.0)
    one = RULES[rule].combine(Heard(said.values[:1], said.spoke[:1]), EVERYBODY[:, :1], 1.0)
    close(found.values, one.values.double())


@every_rule
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf])
def test_who_diverges_is_as_good_as_silent(rule, garbage):
    """To those who hear it and to those who do not; on that sample, and on no other."""
    said, hears = scene(1)
    hears[0, 2], hears[1, 2] = True, False
    said.spoke[2] = True
    silent = said.spoke.clone()
    silent[2, 3] = False
    expected = RULES[rule].combine(Heard(said.values, silent), hears, 1.0)
    values = said.values.clone()
    values[2, 3, 1] = garbage
    found = RULES[rule].combine(Heard(values, said.spoke), hears, 1.0)
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.values, expected.values)


@every_rule
def test_a_class_without_any_chance_stays_finite(rule):
    said, hears = scene(1)
    said.values[2, 3, 1] = -torch.inf
    target, weight, _ = RULES[rule].combine(said, hears, 1.0)
    assert target.isfinite().all()
    assert weight.isfinite().all()


@every_rule
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf])
def test_what_silent_speakers_hold_does_not_matter(rule, garbage):
    """Anything may stand where nothing was said."""
    said, hears = scene(2)
    values = said.values.masked_fill(~said.spoke[..., None], garbage)
    one, two = (RULES[rule].combine(Heard(v, said.spoke), hears, 1.0) for v in (said.values, values))
    assert torch.equal(one.values, two.values)
    assert torch.equal(one.weight, two.weight)


def test_the_surest_of_equals_is_the_first():
    """The one rule that knows an order, where it cannot tell speakers apart: the peers' canonical one."""
    mirrored = torch.tensor([[[0.8, 0.1, 0.1]], [[0.1, 0.8, 0.1]]], dtype=torch.float64)
    said = Heard(mirrored.log(), torch.ones(2, 1, dtype=torch.bool))
    both = torch.ones(1, 2, dtype=torch.bool)
    torch.testing.assert_close(MostConfident().combine(said, both, 1.0).values[0, 0], mirrored[0, 0])


def test_nobody_is_sure_of_anything_so_nobody_is_told():
    """Ties have no margin, so all weights are zero."""
    said = Heard(torch.zeros(2, 1, 3), torch.ones(2, 1, dtype=torch.bool))
    both = torch.ones(1, 2, dtype=torch.bool)
    target, weight, _ = MeanProbability(confidence="margin").combine(said, both, 1.0)
    assert weight.tolist() == [[0.0]]
    torch.testing.assert_close(target, torch.full((1, 1, 3), 1 / 3))


# --- one's own -------------------------------------------------------------------------------------


def prefers_the_first_class(logits: Tensor) -> Tensor:
    return logits.softmax(-1)[..., 0]


@pytest.mark.parametrize("rule", [max_probability, entropy, margin])
def test_a_rule_by_its_name_or_as_a_function(rule):
    said, hears = scene(3)
    for kind in (lambda c: MeanProbability(confidence=c), MostConfident):
        one = kind(rule.__name__).combine(said, hears, 2.0)
        two = kind(rule).combine(said, hears, 2.0)
        assert torch.equal(one.values, two.values)


def test_a_function_of_ones_own():
    """Weights 8, 1 and 4 of 13: 64 + 1 + 16, 32 + 14 + 16, 32 + 1 + 32. The first is surest."""
    own = prefers_the_first_class
    mean = MeanProbability(confidence=own).combine(heard(), EVERYBODY, 1.0).values[0, 0]
    close(mean, normalised(81, 62, 65))
    torch.testing.assert_close(MostConfident(own).combine(heard(), EVERYBODY, 1.0).values[0, 0], SAID[0, 0])


@pytest.mark.parametrize(
    "name", ["max_probability", "tests.knowledge.test_consensus_rules.prefers_the_first_class"]
)
def test_a_configuration_names_a_rule_or_a_function(name):
    """A name that the rules know, or else an import path."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--consensus", type=Consensus)
    path = "mmkd.knowledge.MostConfident"
    parsed = parser.parse_string(f"consensus: {{class_path: {path}, init_args: {{confidence: {name}}}}}")
    made = parser.instantiate_classes(parsed).consensus
    expected = MostConfident(name if name == "max_probability" else prefers_the_first_class)
    one, two = (rule.combine(heard(), EVERYBODY, 1.0) for rule in (made, expected))
    assert torch.equal(one.values, two.values)


def test_a_consensus_of_ones_own_reaches_the_students():
    """A rule that always says the same class, through ``Trainer.fit``: all learn to name no other."""

    class Dogma(Consensus):
        def combine(self, heard: Heard, hears: Tensor, temperature: float) -> Target:
            target = torch.zeros(len(hears), heard.values.shape[1], heard.values.shape[2])
            target[..., 1] = 1.0
            return Target(target, torch.ones(target.shape[:2]))

    fleet = Fleet(lambda n: Eye(n, drop=0.0, optimizer=sgd(1.0)), 2)
    cohort = Cohort({"cameras": fleet}, CLASSES, vectorize="never")
    knowledge = SharedLogits(consensus=Dogma(), alpha=0.0)
    fit(cohort, DecentralizedCallback(knowledge, None, None, schedule(knowledge_every=1)), max_epochs=2)
    for metrics in cohort.metrics.values():
        assert abs(metrics["shared_accuracy"] - 1 / CLASSES) < 0.05


@pytest.mark.filterwarnings("ignore:peer 'oracle/0' sits out")
def test_a_diverged_teacher_silences_nobody_through_the_trainer():
    """On an island of its own it says what is no number and sits out; the others end with the same bits."""

    def run(bias: float) -> dict[str, Tensor]:
        fleet = {
            "oracle": Fleet(lambda n: Eye(n), 1),
            "pupils": Fleet(lambda n: Eye(n), 2),
            "thrall": Fleet(lambda n: Eye(n), 1),
        }
        cohort = Cohort(fleet, CLASSES, vectorize="never", init="own", on_divergence="sit_out")
        with torch.no_grad():
            cohort.student("oracle/0").main.bias[1] = bias  # type: ignore[union-attr,index]
        islands = Islands({"one": ["oracle", "thrall"], "two": ["pupils"]})
        knowledge = SharedLogits(consensus=MeanProbability(confidence="max_probability"))
        work = {"oracle": 0, "pupils": 7, "thrall": 7}
        callback = DecentralizedCallback(
            knowledge, None, islands, schedule(local_steps=work, knowledge_every=2)
        )
        fit(cohort, callback, max_epochs=1, limit_val_batches=0)
        return {n: t.clone() for n, t in cohort.student("pupils/0").state_dict().items()}

    one, two = run(0.0), run(torch.nan)
    assert all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanProbability(sharpen=0.0), "sharpen must be above 0"),
        (lambda: MeanProbability(sharpen=-1.0), "sharpen must be above 0"),
        (lambda: MeanProbability(align=1.5), "align must lie in"),
        (lambda: EntropyReduction(0.0), "temperature must be above 0"),
        (lambda: EntropyReduction(-0.1), "temperature must be above 0"),
    ],
)
def test_what_has_no_meaning_is_refused(make: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        make()
