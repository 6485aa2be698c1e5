"""What listeners hold: speakers leave it out, listeners fill it in, and a plain model of both agrees."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.caching import (
    Eviction,
    ExpectedChange,
    KnowledgeCache,
    LeastFrequentlyUsed,
    LeastRecentlyUsed,
    TimeToLive,
)
from mmkd.coordination.held import Held
from mmkd.knowledge import SharedLogits
from mmkd.topology import Complete, Ring, Star, Topology
from mmkd.transport import Stack
from mmkd.types import ConfigError
from tests.coordination.test_exchange import NAMES, SAMPLES, draw, exchange, speech
from tests.tiny import CLASSES

SPEAKERS, LISTENERS, IDS, STALE = ["a", "b", "c"], ["a", "b", "c", "d"], 7, 4
SAID = torch.tensor([[0.0, 0.0], [0.2, 0.0], [2.0, 0.0]])
"""Logits that are said; the first two are 0.0498 apart in the probability of a class, others more than 0.3."""


def held(folder: Path | None = None, **settings: Any) -> Held:
    cache = KnowledgeCache(**{"stale": STALE, "folder": folder} | settings)
    return Held(cache, lambda stack: {"main": stack.tensors["main"].float()}, "run")


def stack(
    senders: list[str], said: Tensor, receivers: list[str], edges: Any = None, spoken: Any = None
) -> Stack:
    return Stack(senders, {"main": said}, receivers, edges, spoken, ("main",))


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("change", [0.0, 0.1])
def test_a_plain_model_of_every_pair_agrees(tmp_path: Path, change: float, disk: bool) -> None:
    """Sixty exchanges of some speakers about some samples, heard by some; another process hears the same."""
    here, there = (held(tmp_path / name if disk else None, change=change) for name in "xy")
    chance, last, has = random.Random(f"{change} {disk}"), dict[Any, Any](), dict[Any, Any]()
    seen = {"said": 0, "held": 0}
    for tick in range(0, 120, 2):
        senders = sorted(chance.sample(SPEAKERS, chance.randint(1, 3)))
        receivers = chance.sample(LISTENERS, chance.randint(1, 4))
        ids = chance.sample(range(IDS), chance.randint(1, IDS))
        pairs = [(i, j) for i, r in enumerate(receivers) for j, s in enumerate(senders) if r != s]
        edges = None
        if chance.random() < 0.5:
            pairs = [pair for pair in pairs if chance.random() < 0.7]
            edges = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
        kinds = [[chance.choices((0, 1, 2), (6, 3, 1))[0] for _ in ids] for _ in senders]
        sent = stack(senders, SAID[torch.tensor(kinds)], receivers, edges)
        said = here.narrowed(sent, senders, torch.tensor(ids), tick)
        filled = here.filled(said, senders, torch.tensor(ids), tick)
        for j, s in enumerate(senders):
            hears = [receivers[i] for i, k in pairs if k == j]
            for place, (i, kind) in enumerate(zip(ids, kinds[j], strict=True)):
                old, when = last.get((s, i), (None, -99))
                far = old is None or (kind != old if change == 0 else {kind, old} not in ({0, 1}, {kind}))
                needs = far or tick - when > STALE or any(has.get((s, r, i)) != (old, when) for r in hears)
                spoke = said.spoken is None or bool(said.spoken[j, place])
                assert spoke == needs, (tick, s, i)
                if needs:
                    last[s, i] = kind, tick
                    has |= {(s, r, i): (kind, tick) for r in hears}
                seen["said" if needs else "held"] += 1
                for r in hears:
                    assert torch.equal(filled.tensors["main"][j, place], SAID[has[s, r, i][0]])
        assert filled.spoken is None
        # Another process, whose listeners hear all that is said, whoever hears it here.
        away = there.filled(said, senders, torch.tensor(ids), tick)
        assert torch.equal(away.tensors["main"], filled.tensors["main"])
        assert away.spoken is None
    assert min(seen.values()) > 50
    assert (here.counts["said"], here.counts["held"]) == (seen["said"], seen["held"])
    assert here.counts["lost"] == there.counts["lost"] == 0


def test_the_greatest_change_that_is_not_said() -> None:
    """A change of exactly ``change`` is not said, nor what is exactly as old as ``stale``."""
    change = float((SAID[1].softmax(-1) - SAID[0].softmax(-1)).abs().max())
    for bound, says in ((change, False), (change * 0.999, True)):
        cached, ids = held(change=bound), torch.tensor([0])
        cached.narrowed(stack(["a"], SAID[None, :1], ["b"]), ["a"], ids, 0)
        later = stack(["a"], SAID[None, 1:2], ["b"])
        assert (cached.narrowed(later, ["a"], ids, STALE).spoken is None) == says
    assert cached.narrowed(later, ["a"], ids, 2 * STALE).spoken is not None
    assert cached.narrowed(later, ["a"], ids, 2 * STALE + 1).spoken is None


def test_other_numbers_change_in_units_of_the_greatest() -> None:
    """0.25 of a row whose greatest number is -4, by absolute value, in one of its numbers."""
    old, new = torch.tensor([[[1.0, -4.0, 2.0]]]), torch.tensor([[[1.0, -4.0, 3.0]]])
    for bound, says in ((0.25, False), (0.249, True)):
        cached = held(change=bound)
        for tick, values in enumerate((old, new)):
            sent = Stack(["a"], {"main": values}, ["b"])
            said = cached.narrowed(sent, ["a"], torch.tensor([0]), tick)
        assert (said.spoken is None) == says


# --- what goes where there is too much -------------------------------------------------------------


@pytest.mark.parametrize(
    ("eviction", "gone"),
    [(LeastRecentlyUsed(), 1), (LeastFrequentlyUsed(), 3), (TimeToLive(), 0), (ExpectedChange(), 2)],
    ids=["recent", "frequent", "oldest", "change"],
)
def test_what_goes(eviction: Eviction, gone: int) -> None:
    """Four samples are said and read so that each rule has another that goes as a fifth one comes.

    Sample 0 was said first; 1 was used longest ago; 2 changes most; 3 was used once.
    """
    cached = held(stale=99, entries=4, eviction=eviction)

    def say(tick: int, ids: list[int], kinds: list[int]) -> None:
        sent = stack(["a"], SAID[torch.tensor(kinds)][None], ["b"])
        cached.filled(cached.narrowed(sent, ["a"], torch.tensor(ids), tick), ["a"], torch.tensor(ids), tick)

    say(0, [0, 1, 2], [0, 0, 0])
    say(1, [1, 2], [1, 2])  # both change, 2 more
    say(2, [0, 1, 2], [0, 1, 2])  # all are read
    say(3, [3], [0])
    say(4, [0, 2], [0, 2])
    assert cached.counts["gone"] == 0
    say(5, [4], [0])
    assert cached.counts["gone"] == 1
    said = cached.narrowed(
        stack(["a"], SAID[torch.tensor([0, 1, 2, 0, 0])][None], ["b"]), ["a"], torch.arange(5), 6
    ).spoken
    assert said is not None
    assert said[0].nonzero().flatten().tolist() == [gone]


@pytest.mark.parametrize(
    "eviction", [LeastRecentlyUsed(), LeastFrequentlyUsed(), TimeToLive(), ExpectedChange()]
)
def test_what_goes_is_read_before(eviction: Eviction) -> None:
    """A new sample takes the place of one that was left out of the same message, which is still heard; here and
    in another process."""
    here, there = (held(stale=99, entries=2, change=0.1, eviction=eviction) for _ in range(2))
    for tick, kinds in enumerate(([2, 0], [0, 0], [0, 0, 1])):  # the first sample changes, so it drifts
        ids = torch.arange(len(kinds))
        said = here.narrowed(stack(["a"], SAID[torch.tensor([kinds])], ["b"]), ["a"], ids, tick)
        for end in (here, there):
            filled = end.filled(said, ["a"], ids, tick)
            assert filled.spoken is None
            assert torch.equal(filled.tensors["main"], SAID[torch.tensor([kinds])])
    assert said.spoken is not None
    assert said.spoken.tolist() == [[False, False, True]]
    assert here.counts["gone"] == there.counts["gone"] == 1


def test_a_weight_that_changed_is_said() -> None:
    """A hub's answer about a sample that counts for less is another answer."""
    cached, ids = held(change=0.1), torch.tensor([0])
    for tick, (weight, says) in enumerate(((1.0, True), (0.95, False), (0.5, True))):
        sent = stack(["hub"], SAID[None, :1], ["b"])
        sent = sent._replace(tensors={**sent.tensors, "main.weight": torch.tensor([[weight]]).half()})
        assert (cached.narrowed(sent, ["hub"], ids, tick).spoken is None) == says


def test_of_equals_the_later_samples_go() -> None:
    cached = held(entries=2)
    sent = stack(["a"], SAID[None], ["b"])
    cached.filled(cached.narrowed(sent, ["a"], torch.arange(3), 0), ["a"], torch.arange(3), 0)
    again = cached.narrowed(sent, ["a"], torch.arange(3), 1)
    assert again.spoken is not None
    assert again.spoken.tolist() == [[False, False, True]]


def test_of_samples_that_are_nearly_alike_one_is_said() -> None:
    """The first two are 0.0498 apart in a probability, so that the second is said as the first, and kept so.

    That is a change from then on: with a bound below it, it would be said again.
    """
    here, there = (held(stale=99, change=0.05, near=0.05) for _ in range(2))
    ids, said = torch.arange(4), SAID[torch.tensor([[2, 0, 1, 0]])]
    sent = here.narrowed(stack(["a"], said, ["b"]), ["a"], ids, 0)
    assert sent.spoken is None
    assert sent.alike is not None
    assert sent.alike.tolist() == [[0, 1, 1, 1]]
    heard = SAID[torch.tensor([[2, 0, 0, 0]])]
    assert torch.equal(sent.tensors["main"], heard)
    arrived = sent._replace(alike=None)  # as a message is read
    assert torch.equal(there.filled(arrived, ["a"], ids, 0).tensors["main"], heard)
    letter, number = 2 * 4, 1
    assert here.counts["saved"] == 4 * letter - (2 * letter + 4 * number)
    again = here.narrowed(stack(["a"], said, ["b"]), ["a"], ids, 1)
    assert again.spoken is not None
    assert not again.spoken.any()
    for cached in (here, there):
        assert torch.equal(cached.filled(again, ["a"], ids, 1).tensors["main"], heard)


def test_what_is_held_stands_for_nothing_that_is_said() -> None:
    """Only what is in a message does: who sat out may lack the rest."""
    cached, ids = held(stale=99, change=0.05, near=0.05), torch.arange(3)
    cached.narrowed(stack(["a"], SAID[torch.tensor([[0, 2, 2]])], ["b"]), ["a"], ids, 0)
    sent = cached.narrowed(stack(["a"], SAID[torch.tensor([[0, 0, 0]])], ["b"]), ["a"], ids, 1)
    assert sent.spoken is not None
    assert (sent.spoken.tolist(), sent.alike is None) == ([[False, True, True]], False)
    assert sent.alike is not None
    assert sent.alike.tolist() == [[0, 1, 1]]


def test_weights_of_answers_are_alike_too() -> None:
    """A quarter apart in the weight, they are two rows."""
    for weight, rows in ((0.75, 2), (0.97, 1)):
        cached = held(change=0.05, near=0.05)
        said = stack(["hub"], SAID[torch.zeros(1, 2, dtype=torch.long)], ["b"])
        tensors = {**said.tensors, "main.weight": torch.tensor([[1.0, weight]]).half()}
        sent = cached.narrowed(said._replace(tensors=tensors), ["hub"], torch.arange(2), 0)
        assert len(next(iter(sent.payloads("logits", 0))).tensors["main"]) == rows


# --- in an exchange --------------------------------------------------------------------------------


@pytest.mark.parametrize("include_self", [True, False], ids=["one answer", "personal answers"])
@pytest.mark.parametrize("topology", [Ring(), Complete(), Star()], ids=["ring", "complete", "star"])
def test_what_is_said_twice_costs_a_bit(topology: Topology, include_self: bool) -> None:
    """Five samples take one byte of bits; then one sample of one peer changes, and all hear of it."""
    knowledge = SharedLogits(samples="all", include_self=include_self, cache=KnowledgeCache(stale=9))
    cached, ledger = exchange(knowledge, topology)
    plain, whole = exchange(SharedLogits(samples="all", include_self=include_self), topology)
    said, ways = draw(), {Ring: 12, Complete: 30, Star: 12}[type(topology)]
    letter = SAMPLES * CLASSES * 4
    for tick in range(2):
        found, expected = (one(NAMES, [speech(said)], tick, tick)["main"] for one in (cached, plain))
        assert torch.equal(found.values, expected.values)
        assert torch.equal(found.weight, expected.weight)
    assert (whole.total(), ledger.total()) == (2 * ways * letter, ways * letter + ways * 1)
    assert cached.held is not None
    assert cached.held.counts["saved"] == whole.total() - ledger.total()
    said[2, 3] += torch.arange(CLASSES)
    found, expected = (one(NAMES, [speech(said)], 2, 2)["main"] for one in (cached, plain))
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=0)
    hears = {Ring: 2, Complete: 5, Star: 1}[type(topology)]
    answers = (6 if include_self else 5) if topology.hub else 0  # that change
    assert ledger.total() == ways * letter + 2 * ways + (hears + answers) * CLASSES * 4


def test_who_comes_back_is_told_what_it_missed() -> None:
    """The first peer misses an exchange in which all samples change, then one in which nothing does."""
    cached, ledger = exchange(SharedLogits(samples="all", cache=KnowledgeCache(stale=99)), Complete())
    cached(NAMES, [speech(draw(0))], 0, 0)
    rest = NAMES[1:]
    cached(rest, [speech(draw(1), rest)], 1, 1)
    before = ledger.total()
    cached(rest, [speech(draw(1), rest)], 2, 2)
    assert ledger.total() - before == 20
    target = cached(NAMES, [speech(torch.cat([draw(0)[:1], draw(1)[1:]]))], 3, 3)["main"]
    plain, _ = exchange(SharedLogits(samples="all"), Complete())
    expected = plain(NAMES, [speech(torch.cat([draw(0)[:1], draw(1)[1:]]))], 3, 3)["main"]
    assert torch.equal(target.values, expected.values)
    # Five say all to everybody; the first, of whom all know what it says, sends bits.
    assert ledger.total() - before - 20 == 25 * SAMPLES * CLASSES * 4 + 5


def test_what_a_cache_would_keep_wrongly_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes back what is no longer sure"):
        SharedLogits(samples="all", confident=0.4, cache=KnowledgeCache(stale=9))
    with pytest.raises(ConfigError, match=r"near is 0.2 and change 0.1: .* at most as much as change"):
        KnowledgeCache(stale=9, change=0.1, near=0.2)


def test_what_changed_most_is_said_first() -> None:
    """Two of five samples an exchange: the two that changed most, then those that waited, then nothing."""
    cached, ids = held(stale=99, most=0.4), torch.arange(5)
    cached.narrowed(stack(["a"], SAID[torch.zeros(1, 5, dtype=torch.long)], ["b"]), ["a"], ids, 0)
    now = stack(["a"], SAID[torch.tensor([[1, 2, 2, 1, 0]])], ["b"])
    said = []
    for tick in (1, 2, 3):
        spoken = cached.narrowed(now, ["a"], ids, tick).spoken
        assert spoken is not None
        said.append(spoken[0].nonzero().flatten().tolist())
    assert said == [[1, 2], [0, 3], []]
    # Whoever has heard nothing is told all of it.
    assert cached.narrowed(now._replace(receivers=["c"]), ["a"], ids, 4).spoken is None
