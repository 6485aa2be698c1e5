"""Consensus rules against loops over their definitions, and the laws that they keep."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd.functional import consensus
from mmkd.functional.consensus import (
    align,
    entropy_reduction,
    heard_mean,
    mean_logit,
    mean_probability,
    most_confident,
    most_confident_speaker,
    sharpen,
)
from mmkd.functional.distillation import kd
from mmkd.functional.random import generator

RULES = [mean_probability, mean_logit, most_confident]


def scene(
    seed: int, listeners: int = 4, speakers: int = 5, samples: int = 7, classes: int = 3
) -> tuple[Tensor, ...]:
    g = generator(seed, "scene")
    logits = torch.randn(speakers, samples, classes, generator=g, dtype=torch.float64)
    hears = torch.rand(listeners, speakers, generator=g) < 0.6
    spoke = torch.rand(speakers, samples, generator=g) < 0.7
    return logits, hears, spoke


def reference(
    rule: object, logits: Tensor, hears: Tensor, spoke: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The definitions, one listener and one sample at a time."""
    classes = logits.shape[-1]
    out = torch.full((len(hears), logits.shape[1], classes), 1 / classes, dtype=logits.dtype)
    anybody = torch.zeros(out.shape[:2], dtype=torch.bool)
    for k in range(len(hears)):
        for s in range(logits.shape[1]):
            heard = [logits[j, s] for j in range(len(logits)) if hears[k, j] and spoke[j, s]]
            if not heard:
                continue
            anybody[k, s] = True
            soft = [(z / temperature).softmax(-1) for z in heard]
            if rule is mean_probability:
                out[k, s] = sum(soft[1:], soft[0]) / len(soft)
            elif rule is mean_logit:
                out[k, s] = (sum(heard[1:], heard[0]) / len(heard) / temperature).softmax(-1)
            else:
                out[k, s] = max(soft, key=lambda p: float(p.max()))
    return out, anybody


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), alike=st.booleans())
def test_equals_its_definition(rule, seed, alike):
    logits, hears, spoke = scene(seed)
    if alike:
        hears = hears[:1].expand(len(hears), -1)
    probabilities, anybody = rule(logits, hears, spoke, temperature=2.0)
    expected, expected_anybody = reference(rule, logits, hears, spoke, 2.0)
    assert torch.equal(anybody, expected_anybody)
    torch.testing.assert_close(probabilities, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]))


@pytest.mark.parametrize("rule", RULES)
def test_identical_speakers_say_their_own_softmax(rule):
    z = torch.randn(1, 6, 4, generator=generator(0), dtype=torch.float64)
    hears, spoke = ~torch.eye(3, dtype=torch.bool), torch.ones(3, 6, dtype=torch.bool)
    probabilities, anybody = rule(z.expand(3, -1, -1), hears, spoke)
    assert anybody.all()
    torch.testing.assert_close(probabilities, z.softmax(-1).expand(3, -1, -1), atol=1e-10, rtol=0)
    assert kd(z.expand(3, -1, -1), probabilities, temperature=1.0).abs().max() < 1e-10


@pytest.mark.parametrize("rule", RULES)
def test_nobody_spoke_is_uniform_and_nobody_counts(rule):
    logits, hears, spoke = scene(3)
    spoke[:, 2] = False
    hears[1] = False
    probabilities, anybody = rule(logits, hears, spoke)
    assert not anybody[:, 2].any()
    assert not anybody[1].any()
    assert torch.equal(probabilities[1], torch.full_like(probabilities[1], 1 / 3))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_masking_equals_removing_whatever_is_behind_the_mask(rule, garbage):
    logits, hears, spoke = scene(5)
    spoke[2] = False
    logits[2] = garbage
    rest = [0, 1, 3, 4]
    masked = rule(logits, hears, spoke)
    removed = rule(logits[rest], hears[:, rest], spoke[rest])
    assert torch.equal(masked[0], removed[0])
    assert torch.equal(masked[1], removed[1])


@pytest.mark.parametrize("rule", RULES)
def test_who_says_what_is_not_finite_has_not_spoken(rule):
    logits, hears, spoke = scene(6)
    hears[:, 1] = True
    silent = spoke.clone()
    silent[1, 4] = False
    expected = rule(logits, hears, silent)
    logits[1, 4, 0] = torch.nan
    assert all(torch.equal(a, b) for a, b in zip(rule(logits, hears, spoke), expected, strict=True))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_bits_do_not_depend_on_order_or_company(rule, seed):
    """One host equals many: a listener alone, or beside others, with the speakers in any order."""
    logits, hears, spoke = scene(seed, listeners=6, speakers=37, samples=11, classes=10)
    probabilities, _ = rule(logits, hears, spoke)
    order = torch.randperm(37, generator=generator(seed))
    permuted, _ = rule(logits[order], hears[:, order], spoke[order])
    assert torch.equal(permuted, probabilities)
    for k in range(6):
        assert torch.equal(rule(logits, hears[k : k + 1], spoke)[0][0], probabilities[k])


def test_equal_confidence_goes_to_the_first():
    logits = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]])
    hears = torch.tensor([[True, True, True], [False, True, True]])
    probabilities, _ = most_confident(logits, hears, torch.ones(3, 1, dtype=torch.bool))
    assert probabilities[:, 0].argmax(-1).tolist() == [0, 1]


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("speakers", [1, 2, 7])
def test_the_surest_heard_is_found_whoever_else_is_there(density, speakers):
    stream = torch.Generator().manual_seed(0)
    # Few values, so that many are equally sure.
    confidence = torch.randint(3, (speakers, 11), generator=stream).float()
    hears = torch.rand(5, speakers, generator=stream) < density
    spoke = torch.rand(speakers, 11, generator=stream) < 0.7
    found, anybody = most_confident_speaker(confidence, hears, spoke)
    for k in range(5):
        for sample in range(11):
            heard = [j for j in range(speakers) if hears[k, j] and spoke[j, sample]]
            assert anybody[k, sample] == bool(heard)
            first = max(heard, key=lambda j: (confidence[j, sample], -j), default=0)
            assert found[k, sample] == first


def test_a_confidence_given_decides():
    logits, _, _ = scene(1, speakers=3, samples=4)
    everybody, spoke = torch.ones(1, 3, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    confidence = torch.tensor([[3.0, 0, 0, 0], [2, 1, 0, 0], [1, 0, 5, 9]])
    probabilities, _ = most_confident(logits, everybody, spoke, confidence=confidence)
    expected = torch.stack([logits[j, s].softmax(-1) for s, j in enumerate([0, 1, 2, 2])])
    torch.testing.assert_close(probabilities[0], expected, rtol=1e-14, atol=0)


def test_confidence_without_a_finite_prediction_does_not_count():
    logits, _, _ = scene(1, speakers=2, samples=1)
    logits[0, 0, 0] = torch.nan
    everybody, spoke = torch.ones(1, 2, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    probabilities, _ = most_confident(logits, everybody, spoke, confidence=torch.tensor([[9.0], [1.0]]))
    torch.testing.assert_close(probabilities[0], logits[1].softmax(-1), rtol=1e-14, atol=0)


def test_weights_weigh_and_zero_weight_is_silence():
    values = torch.tensor([[[1.0]], [[4.0]], [[9.0]]])
    spoke = torch.ones(3, 1, dtype=torch.bool)
    hears = torch.tensor([[True, True, True], [True, False, True], [False, False, True]])
    mean, anybody = heard_mean(values, hears, spoke, weights=torch.tensor([2.0, 1.0, 0.0]))
    assert mean.flatten().tolist() == [2.0, 1.0, 0.0]
    assert anybody.flatten().tolist() == [True, True, False]


def test_teachers_get_no_gradient():
    logits, hears, spoke = scene(0)
    logits.requires_grad_()
    assert not any(rule(logits, hears, spoke)[0].requires_grad for rule in RULES)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(rule, dtype):
    logits, hears, spoke = scene(2)
    half = (logits * 1000).to(dtype)
    probabilities, _ = rule(half, hears, spoke)
    assert probabilities.dtype == torch.float32
    assert torch.equal(probabilities, rule(half.float(), hears, spoke)[0])


def test_aligned_classes_are_judged_against_their_frequency():
    # Means over samples 7/10 and 3/10; (8/7, 2/3) and (6/7, 4/3), normalised.
    p = torch.tensor([[0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    anybody = torch.tensor([True, True])
    expected = torch.tensor([[12 / 19, 7 / 19], [9 / 23, 14 / 23]], dtype=torch.float64)
    torch.testing.assert_close(align(p, anybody), expected)
    torch.testing.assert_close(align(p.flip(-1), anybody), expected.flip(-1))  # names of classes are nothing
    # What nobody spoke about (a third sample, uniform) does not count in the means.
    longer = torch.cat([p, torch.full((1, 2), 0.5, dtype=torch.float64)])
    torch.testing.assert_close(align(longer, torch.tensor([True, True, False]))[:2], expected)
    # Each listener by itself.
    two = torch.stack([p, p.flip(-1)])
    torch.testing.assert_close(align(two, anybody.expand(2, 2)), torch.stack([expected, expected.flip(-1)]))


def test_only_where_a_class_is_endangered():
    # The rarer class has a mean of 3/10, which is 3/5 of an even share.
    p = torch.tensor([[0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    anybody = torch.tensor([True, True])
    assert torch.equal(align(p, anybody, below=0.59), p)
    torch.testing.assert_close(align(p, anybody, below=0.61), align(p, anybody))
    # Each listener by itself: this one hears 1/4 and 3/4, half of an even share.
    other = torch.tensor([[0.25, 0.75], [0.25, 0.75]], dtype=torch.float64)
    both = align(torch.stack([p, other]), anybody.expand(2, 2), below=0.55)
    assert torch.equal(both[0], p)
    torch.testing.assert_close(both[1], torch.full((2, 2), 0.5, dtype=torch.float64))


def test_only_where_a_class_swallows_others():
    # The most frequent class has 6/5 of an even share, the others 9/10.
    p = torch.tensor([[0.2, 0.3, 0.5], [0.4, 0.3, 0.3]], dtype=torch.float64)
    anybody = torch.tensor([True, True])
    assert torch.equal(align(p, anybody, below=0.83), p)
    torch.testing.assert_close(align(p, anybody, below=0.84), align(p, anybody))


def test_aligning_even_classes_changes_nothing():
    p = torch.tensor([[0.7, 0.3], [0.3, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(align(p, torch.tensor([True, True])), p)
    silent = torch.full((3, 4), 0.25)
    assert torch.equal(align(silent, torch.zeros(3, dtype=torch.bool)), silent)


def test_a_class_that_nobody_thinks_of_stays_at_zero():
    p = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert torch.equal(align(p, torch.tensor([True, True]))[:, 2], torch.zeros(2))


def test_sharpen():
    p = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    torch.testing.assert_close(sharpen(p, 1.0), p)
    squares = torch.tensor([25.0, 9, 4, 0], dtype=torch.float64)
    torch.testing.assert_close(sharpen(p, 2.0), squares / 38)
    assert torch.equal(sharpen(p, 0.0), torch.full_like(p, 0.25))
    # 0.2^2000 underflows double precision, and so does 0.5^2000.
    torch.testing.assert_close(sharpen(p, 2000.0), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    with pytest.raises(ValueError, match="power is -1"):
        sharpen(p, -1.0)


def test_entropy_reduction():
    p = torch.tensor([[0.6, 0.4]], dtype=torch.float64)
    # Two classes: the odds of the first are exp((0.6 - 0.4) / T).
    for t in (0.1, 1.0):
        odds = torch.tensor(0.2 / t, dtype=torch.float64).exp()
        torch.testing.assert_close(entropy_reduction(p, temperature=t)[0, 0], odds / (1 + odds))
    assert not torch.allclose(entropy_reduction(p, temperature=1.0), p, atol=1e-2)
    entropy = [-torch.xlogy(q, q).sum() for q in (p, entropy_reduction(p))]
    assert entropy[1] < entropy[0]


@pytest.mark.parametrize("weighed", [False, True])
def test_a_sparse_graph_is_added_up_along_its_edges_with_the_same_bits(
    weighed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = torch.Generator().manual_seed(1)
    size = 300
    hears = torch.rand(size, size, generator=stream) < 0.01
    spoke = torch.rand(size, 4, generator=stream) < 0.9
    values = 10 * torch.randn(size, 4, 3, generator=stream)
    weights = torch.rand(size, generator=stream) if weighed else None
    assert hears.numel() > consensus._PAIRS
    assert int(hears.sum()) * consensus._SPARSE < hears.numel()
    along_edges = consensus.heard_sum(values, hears, spoke, weights)
    monkeypatch.setattr(consensus, "_PAIRS", hears.numel() + 1)
    for sparse, dense in zip(along_edges, consensus.heard_sum(values, hears, spoke, weights), strict=True):
        assert torch.equal(sparse, dense)
