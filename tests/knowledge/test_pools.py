"""Pools of what was heard: consensus over several exchanges, and draws from it at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAvg
from mmkd.knowledge import MultiHeadDistillation, Prototypes, SharedLogits
from mmkd.participation import Trace
from mmkd.topology import Complete, DirectedCycle, RandomMatching, Ring, Star, Topology
from mmkd.transport import LocalTransport, Mail
from mmkd.types import ConfigError
from tests import spies
from tests.grids import each_once
from tests.spies import Began
from tests.tiny import CLASSES, Ear, Eye, TinyData, fit, fleets, schedule, sgd, trainer

EVERY = 3
"""Ticks between two exchanges, and of a round, unless said otherwise."""
ONE = pytest.mark.parametrize("vectorize", ["never", pytest.param("always", marks=pytest.mark.long)])
"""Targets are made of what was said, and not by groups: one path shows what is in them."""
OTHER = pytest.mark.parametrize("vectorize", ["always", pytest.param("never", marks=pytest.mark.long)])
GRAPHS = {"ring": Ring(), "cycle": DirectedCycle(), "matching": RandomMatching()}


class Spy(spies.Spy):
    """About the whole public set, unless said otherwise."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"samples": "all", **kwargs})


class SpiedLogits(Spy, SharedLogits): ...


class SpiedHeads(Spy, MultiHeadDistillation): ...


class SpiedPrototypes(Spy, Prototypes): ...


class Records(LocalTransport):
    """Keeps all that was ever said, weights apart, by exchange and speaker."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[dict[str, dict[str, Tensor]]] = []

    def deliver(self, mail: Mail) -> Mail:
        if mail.kind != FedAvg.kind:
            self.said.append(
                {
                    payload.sender: {n: t.clone() for n, t in payload.tensors.items()}
                    for stack in mail.stacks
                    for payload in stack.payloads(mail.kind, mail.round)
                }
            )
        return super().deliver(mail)


class Diary(Began):
    """Who steps on which public samples at each tick; in blocks of one."""

    def __init__(self) -> None:
        self.ids: list[Tensor] = []
        self.steps: list[set[str]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        (step,) = batch.steps
        self.ids.append(step.public.ids if step.public is not None else torch.empty(0))
        self.steps.append({peer for same in step.private for peer in same.peers})


class Figures(Logger):
    """Keeps what the coordinator logs, round by round."""

    def __init__(self) -> None:
        super().__init__()
        self.staleness: dict[int, float] = {}
        self.rounds: list[int] = []

    name = "figures"
    version = 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "round" in metrics:
            self.rounds.append(int(metrics["round"]))
            if "knowledge/staleness" in metrics:
                self.staleness[self.rounds[-1]] = metrics["knowledge/staleness"]


class Run(NamedTuple):
    cohort: Cohort
    callback: DecentralizedCallback
    said: list[dict[str, dict[str, Tensor]]]
    diary: Diary
    figures: Figures

    def state(self, peer: str) -> dict[str, Tensor]:
        return self.cohort.student(peer).state_dict()


def run(
    knowledge: Any,
    topology: Topology | None = None,
    *,
    peers: dict[str, Fleet] | None = None,
    rounds: int = 4,
    vectorize: Any = "never",
    participation: Any = None,
    among_clusters: Topology | None = None,
    **plan: Any,
) -> Run:
    """Students of unlike draws, who learn fast, so that what they say changes from exchange to exchange."""
    cohort = Cohort(peers or fleets(4, 2, optimizer=sgd(0.5)), CLASSES, vectorize=vectorize, init="own")
    aggregation = FedAvg() if among_clusters is not None else None
    timing = schedule(**{"local_steps": EVERY, "rounds_per_epoch": 1, "block": 1, **plan})
    transport, diary, figures = Records(), Diary(), Figures()
    callback = DecentralizedCallback(
        knowledge, aggregation, topology or Ring(), timing, transport, participation, among_clusters
    )
    one = trainer(callback, diary, max_epochs=rounds, limit_val_batches=0, logger=figures)
    one.fit(cohort, datamodule=TinyData(batch_size=16))
    return Run(cohort, callback, transport.said, diary, figures)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def same(one: Run, two: Run) -> bool:
    return all(equal(one.state(peer), two.state(peer)) for peer in one.cohort.names)


def remembered(
    made: Run, topology: Topology, listener: str, exchange: int, pool: int
) -> list[tuple[int, str]]:
    """Which (exchange, speaker) a listener has in its pool after an exchange, one in each round.

    Of the last ``pool`` exchanges those at which it was there, and of these the neighbours that were.
    """
    names, entries = made.cohort.names, []
    for i in range(max(0, exchange - pool + 1), exchange + 1):
        there = made.said[i]
        heard = topology.adjacency(names, i)[names.index(listener)]
        if listener in there:
            entries += [
                (i, name) for name, hears in zip(names, heard, strict=True) if hears and name in there
            ]
    return entries


def mean_probability(made: Run, entries: Sequence[tuple[int, str]]) -> Tensor:
    """Over the whole public set, by hand."""
    return torch.stack([made.said[i][name]["main"].softmax(-1) for i, name in entries]).mean(0)


def lessons(made: Run, knowledge: Any, first: int) -> list[tuple[int, str, dict[str, tuple[Tensor, Tensor]]]]:
    """Tick, peer and targets of all that was taught, from tick ``first`` on; groups come in order."""
    found, left = [], iter(knowledge.taught)
    for tick in range(first, len(made.diary.steps)):
        for group in made.cohort.peers.groups:
            members = [name for name in group.names if name in made.diary.steps[tick]]
            if not members:
                continue
            targets = next(left)
            for row, name in enumerate(members):
                pairs = {n: (t.values[row], t.weight[row]) for n, t in targets.items()}
                found.append((tick, name, pairs))
    assert next(left, None) is None
    return found


# --- no pool ---------------------------------------------------------------------------------------


@ONE
def test_a_pool_of_one_is_no_pool(vectorize: str) -> None:
    """Nothing is kept, and no staleness is logged; a pool of two is another method."""
    one, none, two = (
        run(SharedLogits(samples="all", **how), vectorize=vectorize) for how in ({"pool": 1}, {}, {"pool": 2})
    )
    assert same(one, none)
    assert one.callback.state_dict()["lessons"]["pool"] == []
    assert len(two.callback.state_dict()["lessons"]["pool"]) == 2
    assert not one.figures.staleness
    assert two.figures.staleness
    assert not any(equal(one.state(peer), two.state(peer)) for peer in one.cohort.names)
    assert one.callback.ledger == two.callback.ledger  # memory costs no byte


# --- consensus over exchanges ----------------------------------------------------------------------


@each_once(topology=GRAPHS, pool=[2, 3, 10], include_self=[False, True], vectorize=["never", "always"])
def test_targets_are_the_consensus_of_what_is_remembered(
    topology: Topology, pool: int, include_self: bool, vectorize: str
) -> None:
    """After e exchanges of the last min(pool, e) statements of each neighbour of its time, from what was sent.

    Of its own it hears the last alone. Five rounds, an exchange at the end of all but the last.
    """
    knowledge = SpiedLogits(pool=pool, include_self=include_self)
    made = run(knowledge, topology, rounds=5, vectorize=vectorize)
    assert len(made.said) == 4
    counts = set()
    for tick, peer, targets in lessons(made, knowledge, EVERY):
        last, ids = tick // EVERY - 1, made.diary.ids[tick]
        entries = remembered(made, topology, peer, last, pool)
        counts.add(len(entries))
        entries = [*entries, (last, peer)] if include_self else entries
        values, weight = targets["main"]
        assert (weight == 1).all()
        torch.testing.assert_close(values, mean_probability(made, entries)[ids], rtol=0, atol=1e-6)
        if last and len(entries) > 1:  # and of nothing less
            fresh = mean_probability(made, [entry for entry in entries if entry[0] == last])[ids]
            assert (values - fresh).abs().max() > 1e-4
    degree = 2 if isinstance(topology, Ring) else 1
    assert counts == {degree * min(pool, e) for e in range(1, 5)}


@pytest.mark.parametrize("pool", [2, pytest.param(3, marks=pytest.mark.long)])
def test_a_head_may_be_its_own_teacher_as_it_spoke_last(pool: int) -> None:
    """The most confident of the neighbours' remembered main heads and of its own last one, sample by sample."""
    knowledge = SpiedHeads(self_target=True, pool=pool)
    made = run(knowledge, peers=fleets(3, 2, heads=1, optimizer=sgd(0.5)))
    own = older = 0
    for tick, peer, targets in lessons(made, knowledge, EVERY):
        last, ids = tick // EVERY - 1, made.diary.ids[tick]
        entries = [*remembered(made, Ring(), peer, last, pool), (last, peer)]
        soft = torch.stack([made.said[i][name]["head0"].softmax(-1)[ids] for i, name in entries])
        best = soft.amax(-1).argmax(0)
        values, _ = targets["head1"]
        torch.testing.assert_close(values, soft[best, torch.arange(len(ids))], rtol=0, atol=1e-6)
        own += int((best == len(entries) - 1).sum())
        # It would have been chosen, had it stayed a candidate.
        if last:
            before = made.said[last - 1][peer]["head0"].softmax(-1)[ids]
            older += int((before.amax(-1) > soft.amax(-1).amax(0)).sum())
    assert own > 0
    assert older > 0


def test_what_was_drawn_is_remembered() -> None:
    """One teacher an exchange, and a pool of two: the mean of last time's and of this time's."""
    knowledge = SpiedLogits(teachers=1, pool=2, include_self=False)
    made = run(knowledge, Complete(), rounds=6)
    names, chosen = made.cohort.names, {}
    for tick, peer, targets in lessons(made, knowledge, EVERY):
        last, ids = tick // EVERY - 1, made.diary.ids[tick]
        values, _ = targets["main"]
        others = [name for name in names if name != peer]
        mixes = {
            (a, b): mean_probability(made, [(last, a)] if b is None else [(last, a), (last - 1, b)])[ids]
            for a in others
            for b in (others if last else [None])
        }
        ranked = sorted(mixes, key=lambda pair: float((mixes[pair] - values).abs().max()))
        assert (mixes[ranked[0]] - values).abs().max() < 1e-6
        assert (mixes[ranked[1]] - values).abs().max() > 1e-5
        now, before = ranked[0]
        assert chosen.setdefault((peer, last), now) == now
        if last:
            assert chosen[peer, last - 1] == before
    assert len({chosen["cameras/0", last] for last in range(5)}) > 1


def test_prototypes_are_remembered_too() -> None:
    """Class by class, the mean of the others' last two; everybody owns every class."""
    knowledge = SpiedPrototypes(pool=2)
    made = run(knowledge, Ring(), peers=fleets(3, 2, optimizer=sgd(0.5)))
    assert len(knowledge.made) == 3
    for last, told in enumerate(knowledge.made):
        for row, peer in enumerate(made.cohort.names):
            entries = remembered(made, Ring(), peer, last, 2)
            expected = torch.stack([made.said[i][name]["probabilities"] for i, name in entries]).mean(0)
            torch.testing.assert_close(told["probabilities"].values[row], expected, rtol=0, atol=1e-6)


@OTHER
def test_hubs_remember_what_hubs_have_said(vectorize: str) -> None:
    """Each member is taught the mean of what the other cluster's hub said in its last two exchanges.

    Through its own hub, which says logarithms: single precision, twice.
    """
    knowledge = SpiedLogits(pool=2, include_self=False)
    made = run(knowledge, Star(), among_clusters=Complete(), vectorize=vectorize)
    voices = {"cameras": "hub/microphones/0", "microphones": "hub/cameras/0"}
    made = made._replace(said=[said for said in made.said if len(said) > 1])  # a hub tells its members alone
    assert [set(said) for said in made.said] == [set(voices.values())] * 3
    for tick, peer, targets in lessons(made, knowledge, EVERY):
        last, ids = tick // EVERY - 1, made.diary.ids[tick]
        entries = [(i, voices[peer.split("/")[0]]) for i in range(max(0, last - 1), last + 1)]
        expected = mean_probability(made, entries)[ids]
        torch.testing.assert_close(targets["main"][0], expected, rtol=1e-5, atol=1e-6)
        if last:
            assert (expected - mean_probability(made, entries[-1:])[ids]).abs().max() > 1e-4


@OTHER
def test_a_pool_that_is_never_full_holds_all(vectorize: str) -> None:
    """Three exchanges: a pool of three, and one of fifty; two are fewer."""
    three, fifty, two = (
        run(SharedLogits(samples="all", pool=pool), vectorize=vectorize) for pool in (3, 50, 2)
    )
    assert same(three, fifty)
    assert not same(three, two)


# --- how stale it is -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pool", [2, pytest.param(3, marks=pytest.mark.long), pytest.param(9, marks=pytest.mark.long)]
)
def test_staleness_by_hand(pool: int) -> None:
    """Exchanges after ticks 2, 5, 8, ...; rounds end with ticks 6, 13, 20 and 27, where it is logged.

    Every exchange has the same edges, so the mean age is that of the exchanges in the pool.
    """
    made = run(SharedLogits(samples="all", pool=pool), local_steps=7, knowledge_every=3)
    expected = {}
    for round_, end in enumerate((6, 13, 20, 27)):
        ages = [end - tick for tick in range(2, end + 1, 3)][-pool:]
        expected[round_] = sum(ages) / len(ages)
    assert expected[0] == 2.5
    assert made.figures.staleness == pytest.approx(expected)


def test_staleness_counts_edges() -> None:
    """Four cameras hear one another; one is away when the second exchange is made, so that has six edges of twelve.

    After it: 12 edges of age 3 and 6 of age 0; after the third 6 of age 3 and 12 of age 0. The last of
    four rounds has no exchange at its end, and all in the pool is three ticks older.
    """
    trace = Trace({"cameras/3": [[0, 1], [3, 3]]})
    peers = {"cameras": Fleet(lambda n: Eye(n), 4)}
    made = run(SharedLogits(samples="all", pool=2), Complete(), peers=peers, participation=trace)
    ages = {0: 0.0, 1: 12 * 3 / 18, 2: 6 * 3 / 18, 3: 6 * 3 / 18 + 3}
    assert made.figures.staleness == pytest.approx(ages)


def test_nothing_is_stale_before_the_first_exchange() -> None:
    made = run(SharedLogits(samples="all", pool=2), knowledge_every=2 * EVERY)
    assert made.figures.rounds == [0, 1, 2, 3]
    assert made.figures.staleness == pytest.approx({1: 0.0, 2: 3.0, 3: 6.0})


# --- recall ----------------------------------------------------------------------------------------


def nearest(values: Tensor, candidates: Tensor) -> int:
    """Which of them it is; no other comes near."""
    distance = (candidates - values).abs().amax((1, 2))
    first, second = distance.sort().values[:2]
    assert first < 1e-6
    assert second > 1e-5
    return int(distance.argmin())


@each_once(topology={"ring": Ring(), "matching": RandomMatching()}, vectorize=["never", "always"])
def test_recall_draws_one_entry_for_each_listener_and_step(topology: Topology, vectorize: str) -> None:
    """The target of a step is one remembered statement and no mixture; at each step another draw."""
    pool = 3
    knowledge = SpiedLogits(pool=pool, recall=1, include_self=False)
    made = run(knowledge, topology, rounds=5, vectorize=vectorize)
    chosen: dict[str, list[tuple[int, str]]] = {peer: [] for peer in made.cohort.names}
    for tick, peer, targets in lessons(made, knowledge, EVERY):
        ids, last = made.diary.ids[tick], tick // EVERY - 1
        entries = remembered(made, topology, peer, last, pool)
        values, weight = targets["main"]
        assert (weight == 1).all()
        candidates = torch.stack([made.said[i][name]["main"].softmax(-1)[ids] for i, name in entries])
        place = nearest(values, candidates) if len(entries) > 1 else 0
        torch.testing.assert_close(values, candidates[place], rtol=0, atol=1e-6)
        chosen[peer].append((last, entries[place][0]))
    draws = [(last, i) for peer in chosen for last, i in chosen[peer]]
    assert any(i < last for last, i in draws)
    assert any(i == last for last, i in draws)
    # Within three ticks between the same exchanges somebody changes its mind.
    assert any(
        len({i for when, i in chosen[peer] if when == last}) > 1 for peer in chosen for last in (1, 2, 3)
    )


def test_a_draw_beside_ones_own() -> None:
    """Hearing oneself, too, the target is the mean of the entry drawn and of one's own last statement."""
    knowledge = SpiedLogits(pool=2, recall=1)
    made = run(knowledge)
    for tick, peer, targets in lessons(made, knowledge, EVERY):
        ids, last = made.diary.ids[tick], tick // EVERY - 1
        entries = remembered(made, Ring(), peer, last, 2)
        candidates = torch.stack([mean_probability(made, [entry, (last, peer)])[ids] for entry in entries])
        nearest(targets["main"][0], candidates)


def test_draws_are_uniform_over_the_pool_and_independent() -> None:
    """Hoeffding: of N draws a share off by more than t from its chance has probability 2 exp(-2 N t^2).

    With t such that all the shares checked here together miss it in one of ten thousand worlds: each of four
    entries of each of six listeners, how often a step repeats the last one, and how often two
    neighbours-in-order draw the same place of their pools.
    """
    knowledge = SpiedLogits(pool=2, recall=1, include_self=False)
    made = run(knowledge, Ring(), rounds=5)
    names, teaching = made.cohort.names, made.callback.coordinator.lessons
    assert teaching is not None
    ids, number = torch.tensor([3, 58]), 450
    pools = [remembered(made, Ring(), peer, 3, 2) for peer in names]
    candidates = torch.stack(
        [torch.stack([made.said[i][name]["main"].softmax(-1)[ids] for i, name in pool]) for pool in pools]
    )
    assert candidates.shape[:2] == (6, 4)
    values = torch.stack([teaching.exchange.recall(ids, tick)["main"].values for tick in range(number)])
    distance = (values[:, :, None] - candidates).abs().amax((3, 4))
    assert (distance.sort(-1).values[..., 0] < 1e-6).all()
    assert (distance.sort(-1).values[..., 1] > 1e-5).all()
    place = distance.argmin(-1)  # [draws, listeners]
    t = math.sqrt(math.log(2 * (24 + 6 + 5) / 1e-4) / (2 * (number - 1)))
    assert (
        t < 1 / 8
    )  # so that no entry may come up half as often, or more than half again as often, as it should
    shares = torch.stack([(place == i).double().mean(0) for i in range(4)])
    assert (shares - 1 / 4).abs().max() < t
    assert ((place[1:] == place[:-1]).double().mean(0) - 1 / 4).abs().max() < t
    assert ((place[:, 1:] == place[:, :-1]).double().mean(0) - 1 / 4).abs().max() < t


@ONE
def test_who_recalls_everything_hears_the_pool(vectorize: str) -> None:
    """Twelve entries at most: as many draws are all of them, at every step."""
    some, all_, pool = (
        run(SharedLogits(samples="all", pool=3, recall=recall), vectorize=vectorize)
        for recall in (2, 99, None)
    )
    assert same(all_, pool)
    assert not same(some, pool)


# --- who is there ----------------------------------------------------------------------------------

AWAY = Trace({"cameras/1": [[0, 1], [4, 9]], "microphones/0": [[0, 2], [5, 9]]})
"""Exchanges at the ends of rounds 0 to 5 are for rounds 1 to 6: one misses the second and the third, the other
the third and the fourth."""


@ONE
def test_who_was_away_has_no_entries_from_then(vectorize: str) -> None:
    """Neither for others, nor to itself: by hand from what was sent while each was there."""
    knowledge = SpiedLogits(pool=3, include_self=True)
    made = run(knowledge, rounds=7, participation=AWAY, vectorize=vectorize)
    assert [len(said) for said in made.said] == [6, 5, 4, 5, 6, 6]
    fewer = 0
    for tick, peer, targets in lessons(made, knowledge, EVERY):
        last, ids = tick // EVERY - 1, made.diary.ids[tick]
        entries = remembered(made, Ring(), peer, last, 3)
        fewer += len(entries) < 2 * min(3, last + 1)
        assert peer in made.said[last]
        expected = mean_probability(made, [*entries, (last, peer)])[ids]
        torch.testing.assert_close(targets["main"][0], expected, rtol=0, atol=1e-6)
    assert fewer > 0


@OTHER
def test_nobody_draws_what_it_did_not_hear(vectorize: str) -> None:
    """Exchanges after rounds 1 and 3 of six. One camera misses the second, but comes for the last round.

    Then it draws from what it heard in the first; a microphone that misses both is taught nothing.
    """
    trace = Trace({"cameras/1": [[0, 3], [5, 5]], "microphones/1": [[0, 1], [5, 5]]})
    knowledge = SpiedLogits(pool=3, recall=1, include_self=False)
    made = run(
        knowledge, rounds=6, participation=trace, vectorize=vectorize, knowledge_every=2 * EVERY,
    )  # fmt: skip
    assert [set(made.cohort.names) - set(said) for said in made.said] == [
        {"microphones/1"}, {"cameras/1", "microphones/1"},
    ]  # fmt: skip
    seen = set()
    for tick, peer, targets in lessons(made, knowledge, 2 * EVERY):
        ids, values, weight = made.diary.ids[tick], *targets["main"]
        if peer == "microphones/1":
            assert (weight == 0).all()
            seen.add(peer)
            continue
        assert (weight == 1).all()
        exchange = tick // (2 * EVERY) - 1
        entries = remembered(made, Ring(), peer, exchange, 3)
        candidates = torch.stack([made.said[i][name]["main"].softmax(-1)[ids] for i, name in entries])
        place = nearest(values, candidates) if len(entries) > 1 else 0
        torch.testing.assert_close(values, candidates[place], rtol=0, atol=1e-6)
        if peer == "cameras/1" and tick >= 5 * EVERY:
            assert {i for i, _ in entries} == {0}
            seen.add(peer)
    assert seen == {"microphones/1", "cameras/1"}


@pytest.mark.parametrize("recall", [None, 1])
def test_an_exchange_at_which_nobody_makes_some_statement_can_be_remembered(recall: int | None) -> None:
    """The only two with a second auxiliary head speak with a second head, and sit out the second exchange."""
    trace = Trace({f"cameras/{i}": [[0, 1], [3, 9]] for i in range(2)})
    peers = {
        "cameras": Fleet(lambda n: Eye(n, heads=2), 2),
        "microphones": Fleet(lambda n: Ear(n, heads=1), 2),
    }
    knowledge = SpiedHeads(pool=3, recall=recall)
    made = run(knowledge, Complete(), peers=peers, rounds=5, participation=trace)
    assert ["head1" in said.get("cameras/0", {}) for said in made.said] == [True, False, True, True]
    assert all("head1" not in said["microphones/0"] for said in made.said)
    assert "head2" in knowledge.taught[-2]  # the cameras' in the last tick


def test_prototypes_of_a_size_that_nobody_speaks_of_can_be_remembered() -> None:
    """The only two with embeddings of twelve numbers sit out the second exchange."""
    trace = Trace({f"microphones/{i}": [[0, 1], [3, 9]] for i in range(2)})
    knowledge = SpiedPrototypes(of="embedding", pool=3)
    made = run(knowledge, Complete(), peers=fleets(2, 2), rounds=5, participation=trace)
    assert [len(said) for said in made.said] == [4, 2, 4, 4]
    assert "embedding12" in knowledge.taught[-1]


# --- contracts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recall", [2, pytest.param(None, marks=pytest.mark.long)])
def test_both_paths_agree(recall: int | None) -> None:
    """Without random layers, twelve steps in single precision; draws are the same on both."""
    students = fleets(3, 2, drop=0.0, optimizer=sgd(0.1))
    one, two = (
        run(SharedLogits(samples="all", pool=3, recall=recall), peers=students, vectorize=vectorize)
        for vectorize in ("never", "always")
    )
    for peer in one.cohort.names:
        for n, tensor in one.state(peer).items():
            torch.testing.assert_close(two.state(peer)[n], tensor, rtol=0, atol=1e-4)


# --- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 2}, "pool needs samples: all"),
        ({"pool": 0, "samples": "all"}, "pool must be at least 1, not 0"),
        ({"pool": 3, "recall": 0, "samples": "all"}, "recall must be at least 1, not 0"),
        ({"recall": 1, "samples": "all"}, "recall draws from a pool: set knowledge.pool above 1"),
        ({"recall": 1}, "recall draws from a pool"),
    ],
)
@pytest.mark.parametrize("kind", [SharedLogits, MultiHeadDistillation])
def test_settings_without_a_meaning_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


@pytest.mark.parametrize("between", [None, Star("centre")], ids=str)
def test_a_pool_behind_a_hub_is_refused(between: Topology | None) -> None:
    """Whether peers speak over it or clusters do."""
    aggregation = FedAvg() if between is not None else None
    callback = DecentralizedCallback(
        SharedLogits(samples="all", pool=2), aggregation, Star(), schedule(), between=between
    )
    with pytest.raises(ConfigError, match="who hear a hub's answer only: choose a graph"):
        fit(Cohort(fleets(), CLASSES), callback, max_epochs=1)


def test_prototypes_that_cannot_be_recalled_say_so() -> None:
    """A draw at every step has a meaning, or is refused; it is not a setting that nothing reads."""
    try:
        one, none = (run(Prototypes(pool=3, recall=recall), Complete()) for recall in (1, None))
    except ConfigError:
        return
    assert not same(one, none)
