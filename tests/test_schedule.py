"""A timetable is arithmetic on ticks."""

from typing import Any

import pytest

from mmkd.participation import Attendance, Trace
from mmkd.schedule import Schedule, Work
from mmkd.types import ConfigError

PEERS = {"a/0": 3, "a/1": 5, "b/0": 1}


def test_unequal_epochs_make_unequal_steps() -> None:
    table = Schedule(local_epochs={"a": 2, "b/0": 4}, block=4).timetable(PEERS)
    assert {peer: table.steps(peer, 0) for peer in PEERS} == {"a/0": 6, "a/1": 10, "b/0": 4}
    assert table.round_ticks == 10
    assert table.blocks_per_round == 3


def test_blocks_cover_every_tick_once_and_end_with_the_round() -> None:
    table = Schedule(local_steps=10, block=4).timetable(PEERS)
    ticks = [tick for block in range(6) for tick in table.block_ticks(block)]
    assert ticks == list(range(20))
    assert [list(table.block_ticks(b))[-1] for b in (2, 5)] == [9, 19]
    assert [tick for tick in ticks if table.ends_round(tick)] == [9, 19]


@pytest.mark.parametrize("present", [None, {"a/0": [[1, 2]]}])
@pytest.mark.parametrize("drawn", [False, True])
def test_a_peer_takes_its_steps_one_by_one(drawn: bool, present: Any) -> None:
    """Asked tick by tick or block by block, forwards or after a resume, with rounds that it sits out."""
    who = Attendance(Trace(present), [list(PEERS)], PEERS, {p: p for p in PEERS}, 0) if present else None
    work: dict[str, Any] = {"a": [2, 4] if drawn else 4, "b": 2}
    table, again = (
        Schedule(local_steps=work, block=3).timetable(PEERS, who, {p: i for i, p in enumerate(PEERS)})
        for _ in range(2)
    )
    taken = dict.fromkeys(PEERS, 0)
    late = again.local_step("a/1", 15)
    for block in range(8):
        ticks = table.block_ticks(block)
        spans = {peer: list(table.local_steps(peer, ticks)) for peer in table.active(ticks[0])}
        for tick in ticks:
            if tick == 15:
                assert late == taken["a/1"]
            for peer in table.active(tick):
                assert table.local_step(peer, tick) == taken[peer] == spans[peer].pop(0)
                taken[peer] += 1
        assert not any(spans.values())
    assert taken["b/0"] == 4 * 2
    rounds = [1, 2] if present else range(4)
    assert taken["a/0"] == sum(table.work["a/0"].steps(r) for r in rounds)
    if not drawn:
        assert taken["a/0"] == 4 * len(rounds)


def test_rounds_may_be_asked_about_in_any_order() -> None:
    trace = Trace({"a/0": [[1, 3], [5, 5]], "b/0": [[2, 6]]})
    who = Attendance(trace, [list(PEERS)], PEERS, {p: p for p in PEERS}, 0)
    table = Schedule(local_steps={"a": [1, 3], "b": 2}).timetable(PEERS, who, dict.fromkeys(PEERS, 7))
    for round_ in (6, 0, 3, 8, 2, 8, 5):
        for peer in PEERS:
            before = sum(table.steps(peer, earlier) for earlier in range(round_))
            assert table.local_step(peer, round_ * table.round_ticks) == before


def test_work_is_drawn_anew_between_its_bounds() -> None:
    work = Work(2, 5, unit=3, stream=7)
    drawn = [work.steps(r) for r in range(200)]
    assert set(drawn) == {6, 9, 12, 15}
    assert drawn == [work.steps(r) for r in range(200)]
    assert drawn != [work._replace(stream=8).steps(r) for r in range(200)]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"local_steps": 1, "local_epochs": 1}, "one of them"),
        ({"block": 0}, "at least 1"),
        ({"local_steps": {"a": 1}}, "nothing about b/0"),
        ({"local_steps": {"c": 1, "a": 1, "b": 1}}, "names 'c'"),
        ({"local_steps": 0}, "at least one peer needs some"),
        ({"local_steps": [3, 2]}, "no number"),
        ({"local_epochs": {"a": [1, 2, 3], "b": 1}}, "no number"),
    ],
)
def test_bad_schedules_are_refused(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(**kwargs).timetable(PEERS)  # type: ignore[arg-type]
