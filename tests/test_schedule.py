"""A timetable is arithmetic on ticks."""

import pytest

from mmkd.schedule import Schedule
from mmkd.types import ConfigError

PEERS = {"a/0": 3, "a/1": 5, "b/0": 1}


def test_unequal_epochs_make_unequal_steps() -> None:
    table = Schedule(local_epochs={"a": 2, "b/0": 4}, block=4).timetable(PEERS)
    assert table.steps == {"a/0": 6, "a/1": 10, "b/0": 4}
    assert table.round_ticks == 10
    assert table.blocks_per_round == 3


def test_blocks_cover_every_tick_once_and_end_with_the_round() -> None:
    table = Schedule(local_steps=10, block=4).timetable(PEERS)
    ticks = [tick for block in range(6) for tick in table.block_ticks(block)]
    assert ticks == list(range(20))
    assert [list(table.block_ticks(b))[-1] for b in (2, 5)] == [9, 19]
    assert [tick for tick in ticks if table.ends_round(tick)] == [9, 19]


def test_a_peer_takes_its_steps_one_by_one() -> None:
    table = Schedule(local_steps={"a": 4, "b": 2}).timetable(PEERS)
    taken = dict.fromkeys(PEERS, 0)
    for tick in range(12):
        for peer in table.active(tick):
            assert table.local_step(peer, tick) == taken[peer]
            taken[peer] += 1
    assert taken == {"a/0": 12, "a/1": 12, "b/0": 6}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"local_steps": 1, "local_epochs": 1}, "one of them"),
        ({"block": 0}, "at least 1"),
        ({"local_steps": {"a": 1}}, "nothing about b/0"),
        ({"local_steps": {"c": 1, "a": 1, "b": 1}}, "names 'c'"),
        ({"local_steps": 0}, "at least 1"),
    ],
)
def test_bad_schedules_are_refused(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(**kwargs).timetable(PEERS)  # type: ignore[arg-type]
