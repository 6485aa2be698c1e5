"""Wires: what a receiver makes of what was sent, how far it is from the truth, and what it costs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import PublicSamples
from mmkd.functional.random import generator
from mmkd.knowledge import EightBits, Floats, SharedLogits, TopClasses
from mmkd.topology import Complete, Ring, Star
from mmkd.transport import LocalTransport
from mmkd.types import ConfigError
from tests.grids import each_once
from tests.tiny import CLASSES, Eye, TinyData, fit, fleets, schedule

HALF = 2.0**-11
"""Rounding to half precision changes a number by at most this part of it,"""
TINY = 2.0**-25
"""or by this, below 2^-14."""

# What a sample of logits and of an embedding costs in bytes.
WIRES: dict[str, tuple[Any, Any, Any]] = {
    "float32": (Floats(), lambda classes: 4 * classes, lambda dim: 4 * dim),
    "float16": (Floats("float16"), lambda classes: 2 * classes, lambda dim: 2 * dim),
    # A byte a number and half precision for the step; for the least number, too, where it matters.
    "eight bits": (EightBits(), lambda classes: classes + 2, lambda dim: dim + 4),
    # Half precision and a byte for each class sent.
    "two classes": (TopClasses(2), lambda classes: 3 * min(2, classes), lambda dim: 2 * dim),
    "nine classes": (TopClasses(9), lambda classes: 3 * min(9, classes), lambda dim: 2 * dim),
}
every_wire = pytest.mark.parametrize("wire", WIRES)
many = given(
    seed=st.integers(0, 10_000), width=st.integers(2, 40), scale=st.sampled_from([1e-3, 0.1, 1, 10, 300])
)


def draw(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(shape, generator=generator(seed, "wire"))


def there_and_back(wire: Any, values: Tensor, *, logits: bool) -> Tensor:
    return wire.decode(wire.encode(values, logits=logits), values.shape[-1], logits=logits)


def half_error(x: Tensor) -> Tensor:
    return (x.abs() * HALF).clamp(min=TINY)


def relative(values: Tensor) -> Tensor:
    """Logits from the greatest down: softmax sees no more."""
    return values - values.amax(-1, keepdim=True)


# --- what arrives ----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@many
def test_single_precision_is_exact(seed, width, scale):
    values = draw(seed, 2, 5, width, scale=scale)
    for logits in (True, False):
        assert torch.equal(there_and_back(Floats(), values, logits=logits), values)


def test_double_precision_arrives_in_single():
    values = draw(0, 2, 5, 7).double() / 3
    arrived = there_and_back(Floats(), values, logits=True)
    assert arrived.dtype == torch.float32
    assert torch.equal(arrived, values.float())


@settings(max_examples=25, deadline=None)
@many
def test_half_precision_rounds_to_a_part_in_2048(seed, width, scale):
    values = draw(seed, 2, 5, width, scale=scale)
    arrived = there_and_back(Floats("float16"), values, logits=False)
    assert ((arrived - values).abs() <= half_error(values)).all()
    arrived = there_and_back(Floats("float16"), values, logits=True)
    assert (arrived.amax(-1) == 0).all()
    assert ((arrived - relative(values)).abs() <= half_error(relative(values))).all()


def test_half_precision_of_large_numbers():
    """Logits relative to the greatest lose only what is hopeless; an embedding beyond 65504 is silence."""
    values = torch.tensor([[-1e5, 99_998.0, 1e5, 0.0]])
    arrived = there_and_back(Floats("float16"), values, logits=True)
    assert arrived.tolist() == [[-65504.0, -2.0, 0.0, -65504.0]]
    assert not there_and_back(Floats("float16"), values, logits=False).isfinite().all()


@settings(max_examples=50, deadline=None)
@many
def test_eight_bits_of_logits_are_half_a_step_off(seed, width, scale):
    """The step is rounded to half precision by 2^-11 of it, or by 2^-25: over 255 steps that adds up.

    In the first case to an eighth of a step, which moves no code: rounding is to the nearest. In the
    second (rows that span less than 1/64) to 7.6e-6 for the greatest number.
    """
    values = draw(seed, 2, 5, width, scale=scale)
    above = values - values.amin(-1, keepdim=True)
    step = above.amax(-1, keepdim=True) / 255
    arrived = there_and_back(EightBits(), values, logits=True)
    normal = step >= 2.0**-14
    bound = step / 2 * (1 + HALF) + torch.where(normal, 1e-6 * above.amax(-1, keepdim=True), 255 * 2 * TINY)
    assert ((arrived - above).abs() <= bound).all()
    assert (arrived.amin(-1) == 0).all()


@settings(max_examples=50, deadline=None)
@many
def test_eight_bits_of_embeddings_carry_the_least_number_in_half_precision(seed, width, scale):
    values = draw(seed, 2, 5, width, scale=scale)
    least = values.amin(-1, keepdim=True)
    step = (values.amax(-1, keepdim=True) - least) / 255
    arrived = there_and_back(EightBits(), values, logits=False)
    bound = step / 2 * (1 + HALF) + half_error(least) + 255 * 2 * TINY + 1e-6 * values.abs().amax()
    assert ((arrived - values).abs() <= bound).all()


def test_eight_bits_are_at_most_half_a_step_off_as_they_promise():
    """For embeddings, too: far from zero the least number alone is rounded by more than that.

    Half precision knows 1000.0 and 1000.5 and nothing between; a step of 1/255 is 0.0039.
    """
    values = 1000.25 + torch.linspace(0, 1, 11)[None]
    arrived = there_and_back(EightBits(), values, logits=False)
    assert (arrived - values).abs().amax() <= 0.5 / 255 * 1.01


def test_eight_bits_by_hand():
    """From -51 to 204 are 255 steps of one; 0.4 above a step goes down, 0.6 goes up."""
    values = torch.tensor([[-51.0, 204.0, -50.6, -50.4, 99.0]])
    encoded = EightBits().encode(values, logits=False)
    assert encoded[""].tolist() == [[0, 255, 0, 1, 150]]
    assert (encoded[".step"].item(), encoded[".least"].item()) == (1.0, -51.0)
    assert there_and_back(EightBits(), values, logits=False).tolist() == [[-51, 204, -51, -50, 99]]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(2, 40),
    k=st.integers(1, 45),
    scale=st.sampled_from([0.1, 1, 10]),
)
def test_top_classes_keep_the_best_in_half_precision_and_add_up_to_one(seed, width, k, scale):
    """All k halves together are off by at most 2^-11, for probabilities add up to one.

    At least 2^-10, more than rounding may have hidden, is left for the others: with the rounding it is at
    most 3 * 2^-11 too much, by which all are then divided.
    """
    values = draw(seed, 2, 5, width, scale=scale)
    p = values.softmax(-1)
    arrived = there_and_back(TopClasses(k), values, logits=True).exp()
    best = p.topk(min(k, width), -1).indices
    kept, true = arrived.gather(-1, best), p.gather(-1, best)
    # 87 = -log(the least positive single) roundings of a logarithm, and those of the softmax.
    noise = 1e-5
    assert ((kept - true).abs() <= half_error(true) + (3 * HALF + width * TINY + noise) * true).all()
    others = arrived.scatter(-1, best, torch.nan)
    spread = others.nan_to_num(nan=torch.inf).amin(-1), others.nan_to_num(nan=-1.0).amax(-1)
    if k < width:
        torch.testing.assert_close(*spread)  # all of the others are alike
    assert ((arrived.sum(-1) - 1).abs() <= noise).all()


def test_top_classes_by_hand():
    """Of 1/2, 1/4, 1/8 and 1/8 the first two are sent, and the others share the rest: nothing is lost."""
    p = torch.tensor([[0.125, 0.5, 0.125, 0.25]])
    encoded = TopClasses(2).encode(p.log() + 5, logits=True)
    assert encoded[""].tolist() == [[0.5, 0.25]]
    assert encoded[".classes"].tolist() == [[1, 3]]
    arrived = TopClasses(2).decode(encoded, 4, logits=True)
    torch.testing.assert_close(arrived.exp(), p)
    one = TopClasses(1)
    sixths = torch.tensor([[1 / 6, 1 / 2, 1 / 6, 1 / 6]])
    torch.testing.assert_close(there_and_back(one, p.log(), logits=True).exp(), sixths)


def test_top_classes_break_ties_and_still_send_k():
    """Four alike: whichever two are named, a quarter each, and so are the other two."""
    encoded = TopClasses(2).encode(torch.full((3, 4), 2.0), logits=True)
    assert (encoded[".classes"][:, 0] != encoded[".classes"][:, 1]).all()
    assert (encoded[""] == 0.25).all()
    torch.testing.assert_close(TopClasses(2).decode(encoded, 4, logits=True).exp(), torch.full((3, 4), 0.25))


@pytest.mark.parametrize(
    ("classes", "dtype"), [(256, torch.uint8), (257, torch.int32), (70_000, torch.int32)]
)
def test_top_classes_name_any_class(classes, dtype):
    """A byte counts to 255; the last class must arrive as itself."""
    values = torch.zeros(1, classes)
    values[0, -1], values[0, 17] = 20.0, 19.0
    encoded = TopClasses(3).encode(values, logits=True)
    assert encoded[".classes"].dtype == dtype
    arrived = TopClasses(3).decode(encoded, classes, logits=True)
    assert arrived.topk(2).indices.tolist() == [[classes - 1, 17]]
    assert encoded[".classes"].shape == encoded[""].shape == (1, 3)


@every_wire
def test_constant_rows(wire):
    """No step between equal numbers; of logits what matters is that all classes are alike."""
    for level in (0.0, 0.5, -7.0):
        values = torch.full((2, 3, 4), level)
        arrived = there_and_back(WIRES[wire][0], values, logits=True)
        torch.testing.assert_close(arrived.softmax(-1), torch.full((2, 3, 4), 0.25))
        assert torch.equal(there_and_back(WIRES[wire][0], values, logits=False), values)


@every_wire
def test_what_is_added_to_all_logits_changes_nothing(wire):
    """Integers stay exact in any precision, so an offset of 64 must give the same bits of softmax."""
    values = draw(0, 2, 5, 6, scale=20).round()
    one = there_and_back(WIRES[wire][0], values, logits=True)
    two = there_and_back(WIRES[wire][0], values + 64, logits=True)
    assert torch.equal(relative(one), relative(two))


@every_wire
def test_rows_are_encoded_by_themselves(wire):
    """A sample on which a peer is silent can be left out without changing the others."""
    values, chosen = draw(0, 2, 9, 6), torch.tensor([1, 4, 8])
    for logits in (True, False):
        whole = WIRES[wire][0].encode(values, logits=logits)
        part = WIRES[wire][0].encode(values[:, chosen], logits=logits)
        assert all(torch.equal(whole[n][:, chosen], part[n]) for n in whole)


def test_no_class_is_refused():
    with pytest.raises(ConfigError, match="k must be at least 1, not 0"):
        TopClasses(0)


# --- what is no number -----------------------------------------------------------------------------


@every_wire
@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["one", "all"])
def test_no_wire_hides_that_a_speaker_has_diverged(wire, logits, garbage, where):
    """The consensus counts whoever says what is not finite as silent, so it must arrive as not finite."""
    values = draw(0, 1, 3, 4)
    values[0, 1, 2 if where == "one" else slice(None)] = garbage
    arrived = there_and_back(WIRES[wire][0], values, logits=logits)
    assert not arrived[0, 1].isfinite().all()
    assert arrived[0, [0, 2]].isfinite().all()


@every_wire
def test_minus_infinity_is_silence_or_a_class_without_a_chance(wire):
    """Of logits either will do, down to half precision; what is left for the others is at most 2^-11."""
    values = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [9.0, -torch.inf, 8.0, -20.0]]])
    arrived = there_and_back(WIRES[wire][0], values, logits=True)
    assert not arrived[0, 1].isfinite().all() or float(arrived[0, 1].softmax(-1)[1]) <= HALF
    assert arrived[0, 0].isfinite().all()


@every_wire
def test_minus_infinity_everywhere_is_silence(wire):
    """No class has any chance; and an embedding has no business there at all."""
    for logits, where in ((True, slice(None)), (False, slice(None)), (False, 2)):
        values = draw(0, 1, 3, 4)
        values[0, 1, where] = -torch.inf
        arrived = there_and_back(WIRES[wire][0], values, logits=logits)
        assert arrived[0, [0, 2]].isfinite().all()
        assert not arrived[0, 1].isfinite().all()


@pytest.mark.filterwarnings("ignore:peer 'oracle/0' sits out")
@each_once(wire=list(WIRES), garbage=[torch.nan, torch.inf])
def test_a_diverged_teacher_teaches_nothing(wire, garbage):
    """Where it sits out, its listeners end with the very bits that they have without it."""

    def run(knowledge: Any) -> Mapping[str, Tensor]:
        fleet = {"oracle": Fleet(lambda n: Eye(n), 1), "pupil": Fleet(lambda n: Eye(n), 1)}
        cohort = Cohort(fleet, CLASSES, vectorize="never", on_divergence="sit_out")
        with torch.no_grad():
            cohort.student("oracle/0").main.bias[1] = garbage  # type: ignore[union-attr,index]
        callback = DecentralizedCallback(
            knowledge, None, Complete(), schedule(local_steps={"oracle": 0, "pupil": 7}, knowledge_every=2)
        )
        fit(cohort, callback, max_epochs=1, limit_val_batches=0)
        return cohort.student("pupil/0").state_dict()

    alone = run(None)
    taught = run(SharedLogits(include_self=False, wire=WIRES[wire][0]))
    assert all(torch.equal(taught[n], alone[n]) for n in alone)


# --- what it costs ---------------------------------------------------------------------------------


@every_wire
@pytest.mark.parametrize("width", [2, 3, 16])
def test_bytes_of_a_sample(wire, width):
    codec, of_logits, of_embedding = WIRES[wire]
    for logits, cost in ((True, of_logits), (False, of_embedding)):
        encoded = codec.encode(draw(0, 5, 7, width), logits=logits)
        assert all(tensor.shape[:2] == (5, 7) for tensor in encoded.values())
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in encoded.values())
        assert nbytes == 5 * 7 * cost(width)


def test_bytes_of_more_than_256_classes():
    """A half and four bytes for each class sent."""
    encoded = TopClasses(5).encode(draw(0, 7, 300), logits=True)
    assert sum(t.numel() * t.element_size() for t in encoded.values()) == 7 * 5 * (2 + 4)


class Small(TinyData):
    """Twenty public samples: a public batch of twenty is all of them. Microphones lack every third."""

    missing = False

    def public(self, split: str) -> Any:
        x = self.public_x[:20]
        shown = {"audio": torch.arange(20) % 3 != 0} if self.missing else {}
        return PublicSamples({"image": x, "audio": x}, shown)


class Blinking(Small):
    missing = True


SEEN = {"cameras": 20, "microphones": 13}  # 0, 3, ..., 18 are seven


def run(
    wire: Any,
    topology: Any,
    samples: str,
    *,
    data: type[Small] = Small,
    serialise: bool = False,
    **kwargs: Any,
) -> tuple[Cohort, DecentralizedCallback]:
    """Fourteen ticks, and a single exchange: at the first, or, of the whole public set, after ten."""
    every = 14 if samples == "batch" else 10
    knowledge = None if wire is None else SharedLogits(samples=samples, wire=wire, **kwargs)  # type: ignore[arg-type]
    cohort = Cohort(fleets(drop=0.0), CLASSES, vectorize="never")
    callback = DecentralizedCallback(
        knowledge, None, topology, schedule(knowledge_every=every), LocalTransport(serialise=serialise)
    )
    fit(cohort, callback, data(batch_size=16, public_batch_size=20), max_epochs=1, limit_val_batches=0)
    return cohort, callback


@each_once(wire=list(WIRES), samples=["batch", "all"], data=[Small, Blinking])
def test_bytes_on_a_ring(wire, samples, data):
    """Five peers say to two neighbours each what they see: a bit for every sample, unless they see all."""
    codec, cost, _ = WIRES[wire]
    _, callback = run(codec, Ring(), samples, data=data)
    if data is Small:
        expected = 5 * 2 * 20 * cost(CLASSES)
    else:
        expected = 3 * 2 * 20 * cost(CLASSES) + 2 * 2 * (13 * cost(CLASSES) + 3)  # 20 bits are 3 bytes
    assert callback.ledger.by_kind()["logits"] == {"peer": expected}


@each_once(wire=list(WIRES), samples=["batch", "all"], data=[Small, Blinking])
def test_bytes_through_a_hub(wire, samples, data):
    """The hub hears what they see, and tells all five the consensus on every sample."""
    codec, cost, _ = WIRES[wire]
    _, callback = run(codec, Star(), samples, data=data)
    up = 5 * 20 * cost(CLASSES)
    if data is Blinking:
        up = 3 * 20 * cost(CLASSES) + 2 * (13 * cost(CLASSES) + 3)
    assert callback.ledger.by_kind()["logits"] == {"up": up, "down": 5 * 20 * cost(CLASSES)}


def sure_of(samples: str, data: type[Small], limit: float) -> dict[str, Tensor]:
    """On which samples each peer's main head is that sure when it speaks, from a run without exchange."""
    every = 10 if samples == "all" else 0
    cohort = Cohort(fleets(drop=0.0), CLASSES, vectorize="never")
    if every:
        callback = DecentralizedCallback(schedule=schedule(local_steps=every, rounds_per_epoch=1))
        fit(cohort, callback, data(batch_size=16), max_epochs=1, limit_val_batches=0)
    x = _public()
    found = {}
    for name in cohort.names:
        student = copy.deepcopy(cohort.student(name)).train(samples == "batch")
        there = torch.ones(20, dtype=torch.bool)
        if data is Blinking and name.startswith("microphones"):
            there = torch.arange(20) % 3 != 0
        with torch.no_grad():  # zeros stand where nothing is seen, and normalisation over a batch counts them
            sure = there & (student(x * there[:, None]).softmax(-1).amax(-1) >= limit)
        found[name] = sure
    return found


def _public() -> Tensor:
    data = Small(peers={"cameras/0": "image"})
    data.setup("fit")
    return data.public_x[:20]


LIMIT = 0.45
"""Where peers are that sure they have something to say, and something to keep to themselves."""


@each_once(wire=list(WIRES), samples=["batch", "all"], data=[Small, Blinking])
def test_bytes_of_the_confident(wire, samples, data):
    """Who is unsure of a sample saves its row, and sends a bit for every sample."""
    codec, cost, _ = WIRES[wire]
    sure = sure_of(samples, data, LIMIT)
    said = {name: int(where.sum()) for name, where in sure.items()}
    assert all(0 < n < 20 for n in said.values())
    _, ring = run(codec, Ring(), samples, data=data, confident=LIMIT)
    for entry in ring.ledger.entries():
        if entry.kind == "logits":
            assert entry.bytes == said[entry.sender] * cost(CLASSES) + 3
    assert sum(entry.kind == "logits" for entry in ring.ledger.entries()) == 10
    _, star = run(codec, Star(), samples, data=data, confident=LIMIT)
    anybody = int(torch.stack(list(sure.values())).any(0).sum())
    up = sum(n * cost(CLASSES) + 3 for n in said.values())
    down = 5 * (anybody * cost(CLASSES) + (3 if anybody < 20 else 0))
    assert star.ledger.by_kind()["logits"] == {"up": up, "down": down}


def test_nobody_is_sure_of_anything():
    """Certainty is out of reach, so all that is said is that nothing is said; nobody learns from it."""
    alone, _ = run(None, Ring(), "all")
    for topology, edges in ((Ring(), 10), (Star(), 5 + 5)):
        cohort, callback = run(Floats(), topology, "all", confident=1.0)
        assert callback.ledger.total() == edges * 3
        for name in cohort.names:
            one, two = cohort.student(name).state_dict(), alone.student(name).state_dict()
            assert all(torch.equal(one[n], two[n]) for n in one)


@each_once(wire=list(WIRES), topology=[Star(), Ring()], samples=["batch", "all"], data=[Small, Blinking])
def test_writing_everything_down_changes_nothing(wire, topology, samples, data):
    confident = LIMIT if data is Blinking else 0.0
    results = []
    for serialise in (False, True):
        cohort, callback = run(
            WIRES[wire][0], topology, samples, data=data, serialise=serialise, confident=confident
        )
        results.append(({n: cohort.student(n).state_dict() for n in cohort.names}, callback.ledger))
    (one, ledger), (two, again) = results
    assert ledger == again
    for name, state in one.items():
        assert all(torch.equal(state[n], two[name][n]) for n in state), name


@pytest.mark.parametrize("garbage", [1000.0, torch.nan])
def test_what_stands_in_place_of_a_missing_view_changes_nothing(garbage):
    """Anything may, says ``PublicSamples``."""

    class Garbage(Blinking):
        def public(self, split: str) -> Any:
            given = super().public(split)
            audio = given.views["audio"].masked_fill(~given.shown["audio"][:, None], garbage)
            return PublicSamples(given.views | {"audio": audio}, given.shown)

    states = []
    for data in (Blinking, Garbage):
        cohort, _ = run(Floats(), Star(), "all", data=data)
        states.append({n: cohort.student(n).state_dict() for n in cohort.names})
    for name, state in states[0].items():
        for n, tensor in state.items():
            torch.testing.assert_close(tensor, states[1][name][n], msg=f"{name} {n}")
