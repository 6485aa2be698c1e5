"""Who takes part: exact chances, seeded draws, traces, and what a peer that sits out keeps."""

from __future__ import annotations

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.federated import FedAvg
from mmkd.participation import Attendance, Participation, Sampled, Trace
from mmkd.schedule import Schedule, Timetable, Work
from mmkd.topology import Star
from mmkd.types import ConfigError
from tests.tiny import CLASSES, adam_steps, fit, fleets

PEERS = [f"a/{i}" for i in range(6)]
SAMPLES = dict(zip(PEERS, [1, 2, 3, 4, 10, 40], strict=True))


def attendance(participation: Participation, seed: int = 0) -> Attendance:
    return Attendance(participation, [PEERS], SAMPLES, {p: p for p in PEERS}, seed)


def test_chances() -> None:
    n = torch.tensor([float(v) for v in SAMPLES.values()])
    assert Sampled(fraction=0.5).chances(n).tolist() == [0.5] * 6
    assert Sampled(fraction=0.01).chances(n).tolist() == pytest.approx([1 / 6] * 6)
    # Three of six: the largest would be drawn twice, so for sure; then 10 of 20 for two places, so too.
    assert Sampled(count=3, weighted=True).chances(n).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 1, 1])
    assert Sampled(count=6, weighted=True).chances(n).tolist() == [1.0] * 6


@pytest.mark.parametrize("weighted", [False, True])
def test_as_many_as_wanted_and_each_as_often_as_it_should(weighted: bool) -> None:
    who = attendance(Sampled(count=3, weighted=weighted))
    rounds = 4000
    drawn = [who.present(r) for r in range(rounds)]
    assert {len(d) for d in drawn} == {3}
    for peer, chance in zip(PEERS, who.chances(PEERS).tolist(), strict=True):
        often = sum(peer in d for d in drawn) / rounds
        assert abs(often - chance) <= 5 * (chance * (1 - chance) / rounds) ** 0.5  # five standard deviations


def test_draws_depend_on_seed_and_round_alone() -> None:
    one, two = attendance(Sampled(count=2)), attendance(Sampled(count=2))
    forwards = [one.present(r) for r in range(100)]
    assert [two.present(r) for r in reversed(range(100))] == forwards[::-1]
    assert [attendance(Sampled(count=2), seed=1).present(r) for r in range(100)] != forwards


def test_a_trace() -> None:
    who = attendance(Trace({"a/0": [[2, 3], [5, 5]], "a/1": []}))
    assert ["a/0" in who.present(r) for r in range(7)] == [False, False, True, True, False, True, False]
    assert who.present(0) == set(PEERS[2:])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Sampled(), "a fraction or a count"),
        (lambda: Sampled(0.5, 2), "not both"),
        (lambda: Sampled(0.0), r"in \(0, 1\]"),
        (lambda: Sampled(count=0), "at least 1"),
        (lambda: Trace({"a": [[3, 2]]}), "no pair"),
        (lambda: Trace({"nobody": [[0, 2]]}).check(PEERS), "'nobody', which is no peer"),
        (lambda: Sampled(count=7).chances(torch.ones(6)), "cannot draw 7 of a cluster of 6"),
    ],
)
def test_refused(make, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_peer_takes_up_its_data_where_it_left_off() -> None:
    who = attendance(Trace({"a/0": [[1, 1], [3, 9]]}))
    table = Timetable(dict.fromkeys(PEERS, Work(4, 4)), 1, 1, 10, who)
    taken = dict.fromkeys(PEERS, 0)
    for tick in range(24):
        for peer in table.active(tick):
            assert table.local_step(peer, tick) == taken[peer]
            taken[peer] += 1
    assert taken == {**dict.fromkeys(PEERS, 24), "a/0": 16}


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_a_peer_that_sits_out_keeps_all_it_has_and_costs_nothing(vectorize) -> None:
    """Without a hub there is nothing that could reach it."""
    cohort = Cohort(fleets(), CLASSES, vectorize=vectorize)
    away = Trace({"cameras/1": []})
    callback = DecentralizedCallback(None, FedAvg(), Star(), Schedule(local_steps=4), participation=away)
    before = {n: t.clone() for n, t in cohort.student("cameras/1").state_dict().items()}
    fit(cohort, callback, max_epochs=2)
    assert adam_steps(cohort, "cameras/1") == set()
    assert callback.ledger.flops["cameras/1"] == 0
    entries = [e for e in callback.ledger.entries() if "cameras/1" in (e.sender, e.receiver)]
    # The last round ends with one download: the model that was trained.
    assert {(e.round, e.sender) for e in entries} == {(1, "hub")}
    after, model = (cohort.student(f"cameras/{i}").state_dict() for i in (1, 0))
    assert any(not torch.equal(before[n], after[n]) for n in before)
    parameters = [n for n, _ in cohort.student("cameras/0").named_parameters()]
    assert all(torch.equal(after[n], model[n]) for n in parameters)


def test_nobody_at_all_is_a_round_too() -> None:
    cohort = Cohort(fleets(), CLASSES, vectorize="always")
    names = list(cohort.names)
    gone = Trace({name: [[0, 0], [2, 9]] for name in names})
    callback = DecentralizedCallback(None, FedAvg(), Star(), Schedule(local_steps=4), participation=gone)
    fit(cohort, callback, max_epochs=3)
    assert {entry.round for entry in callback.ledger.entries()} == {0, 2}
