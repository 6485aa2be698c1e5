"""Processes that wait for nobody, and knowledge that is heard again while its speaker is silent."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mmkd.caching import KnowledgeCache
from mmkd.coordination.method import Method
from mmkd.encoding import Quantise
from mmkd.federated import FedAvg, FedBuff, Gossip, PushSum
from mmkd.federated.fedbuff import SINCE
from mmkd.knowledge import SharedLogits
from mmkd.participation import Sampled
from mmkd.schedule import Schedule
from mmkd.topology import Complete, RandomMatching, Ring, Star
from mmkd.transport import LocalTransport, Mail, Stack
from mmkd.transport.letters import Exchange, Slip
from mmkd.transport.mailbox import OVERHEAD, Letter
from mmkd.transport.newest import Newest
from mmkd.types import ConfigError
from tests.coordination.test_elsewhere import fit
from tests.transport.test_facts import FACTS
from tests.transport.test_zenoh import ends, free_ports, over_zenoh

# --- the newest letters ----------------------------------------------------------------------------


def letter(place: int, of: int, round_: int, instance: str = "i") -> Letter:
    return Letter(b"x", Slip(instance, 0, place, of, ()), round_)


def put(mail: Newest, round_: int, place: int = 0, of: int = 1, who: str = "a", **how: Any) -> str | None:
    return mail.put(who, Exchange("logits", round_, 0), letter(place, of, round_, **how))


def taken(mail: Newest, kind: str = "logits", number: int = 0) -> dict[str, list[tuple[int, int]]]:
    letters = mail.take(Exchange(kind, 99, number))
    return {who: [(one.round, one.slip.place) for one in own] for who, own in letters.items()}


def test_of_several_rounds_the_newest_that_is_whole_is_taken_once() -> None:
    mail = Newest(10**6)
    assert [put(mail, 3, 1, 2), put(mail, 3, 0, 2), put(mail, 5, 0, 2)] == [None] * 3
    assert taken(mail) == {"a": [(3, 0), (3, 1)]}  # of round 5 one is missing
    assert taken(mail) == {}
    assert [put(mail, 5, 1, 2), put(mail, 7)] == [None] * 2
    assert put(mail, 6) == "late"
    assert put(mail, 7) == "repeated"
    assert taken(mail, "weights") == taken(mail, number=1) == {}
    assert taken(mail) == {"a": [(7, 0)]}
    assert put(mail, 7) == "repeated"
    assert mail.latest == {"a": 7}


def test_a_process_that_is_started_again_is_heard_although_its_rounds_begin_anew() -> None:
    mail = Newest(10**6)
    assert [put(mail, 9), put(mail, 0, instance="j")] == [None, None]
    assert taken(mail) == {"a": [(0, 0)]}


def test_it_holds_no_more_than_it_has_room_for() -> None:
    mail = Newest(2 * (OVERHEAD + 1))
    assert [put(mail, 0, who=who) for who in "abc"] == [None, None, "room"]
    taken(mail)
    assert put(mail, 0, who="c") is None
    assert put(mail, 1, 0, 2, who="d") is None
    assert put(mail, 1, 1, 3, who="d") == "count"
    assert mail.dropped == {"room": 1, "count": 1}


# --- what has no meaning ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"knowledge": SharedLogits()}, "do not read the same batch"),
        (
            {"knowledge": SharedLogits(samples="all", cache=KnowledgeCache(stale=9))},
            "takes turns of speaking",
        ),
        ({"knowledge": SharedLogits(samples="all", teachers=1)}, "knowledge.teachers are drawn anew"),
        ({"aggregation": FedAvg()}, "FedAvg combines weights of one round: choose FedBuff or Gossip"),
        ({"aggregation": PushSum()}, "PushSum combines weights of one round"),
        ({"aggregation": Gossip(compression=Quantise())}, "Gossip combines weights"),
        ({"aggregation": Gossip(), "participation": Sampled(count=1)}, "leave participation out"),
        ({"aggregation": Gossip(), "topology": RandomMatching()}, "RandomMatching is of one round"),
    ],
)
def test_what_is_of_use_in_one_round_alone_is_refused(factors: dict[str, Any], said: str) -> None:
    names = Method.__dataclass_fields__
    given = dict.fromkeys(names) | {"topology": Ring(), "schedule": Schedule(), "transport": LocalTransport()}
    with pytest.raises(ConfigError, match=said):
        Method(**{**given, **factors}).check_asynchronous()


@pytest.mark.parametrize("aggregation", [FedBuff(), Gossip(), None])
def test_the_rest_is_not(aggregation: Any) -> None:
    knowledge = SharedLogits(samples="all")
    Method(
        knowledge, aggregation, Complete(), Schedule(), LocalTransport(), None, None, None
    ).check_asynchronous()


# --- on a network ----------------------------------------------------------------------------------


def talk(i: int, ports: Sequence[int]) -> str:
    """How many messages the first process hears in each of seven rounds; the second is gone after two."""
    transport = over_zenoh(ports, i, deadline=0.3, late="go_on", stale=3)
    own, other = (["a/0", "b/0"][at] for at in (i, 1 - i))
    transport.join({own: FACTS._replace(id=own)}, [other], {})
    heard = []
    for round_ in range(7):
        if i == 1 and round_ == 2:
            time.sleep(0.5)  # the last letters are still on their way
            os._exit(0)
        about = "others" if round_ == 3 else "same"
        said = Stack([own], {"main": torch.full((1, 2), float(round_))}, [other])
        mail = transport.deliver(Mail("logits", round_, [said], (), about))
        heard.append([message.round for message in mail.messages])
        if round_ == 1:
            time.sleep(1.0)
    return json.dumps(heard)


def test_what_a_silent_one_has_said_last_is_heard_for_some_rounds() -> None:
    """It is gone after round 1, which is heard again until round 4, and not where others are spoken about."""
    ports = free_ports(2)
    got = json.loads(ends(2, lambda i: talk(i, ports))[0])
    assert got == [[0], [1], [1], [], [1], [], []]


def differ(i: int, ports: Sequence[int]) -> str:
    """What a process hears from one that speaks about other samples, and why letters were dropped."""
    transport: Any = over_zenoh(ports, i)
    own, other = (["a/0", "b/0"][at] for at in (i, 1 - i))
    transport.join({own: FACTS._replace(id=own)}, [other], {})
    said = Stack([own], {"main": torch.zeros(1, 2)}, [other])
    heard = [
        len(transport.deliver(Mail("logits", round_, [said], (), about)).messages)
        for round_, about in enumerate(["same", f"mine {i}", ""])
    ]
    transport.leave()
    return json.dumps([heard, [[*which, count] for which, count in transport.dropped.items()]])


def test_who_speaks_about_other_samples_is_not_heard() -> None:
    ports = free_ports(2)
    for i, text in enumerate(ends(2, lambda i: differ(i, ports))):
        heard, dropped = json.loads(text)
        assert heard == [1, 0, 1]
        assert [["b/0", "a/0"][i], "samples", 1] in dropped


MOVES: list[tuple[float, int]] = []
"""For each round of this process since which of the hub's weights it began, and whose updates came."""


class Noted(FedBuff):
    """Notes what a process hears."""

    def finish(self, y: Any, round: Any) -> Any:
        since = float(round.heard(SINCE, {"": torch.zeros(1, 1)})[""])
        try:
            return super().finish(y, round)
        finally:
            MOVES.append((since, int((round.counted > 0).sum())))


PARTS = [["a/0"], ["a/1"], ["b/0", "b/1"]]
ROUNDS, PAUSE = 9, 0.05


def paced(i: int, ports: Sequence[int]) -> str:
    """Rounds of three processes, the second of which takes four times as long as the others."""
    transport = over_zenoh(ports, i, late="asynchronous")
    deliver, begun = transport.deliver, list[float]()

    def slow(mail: Mail) -> Mail:
        begun.append(time.monotonic())
        time.sleep(PAUSE * (4 if i == 1 else 1))
        return deliver(mail)

    transport.deliver = slow  # type: ignore[method-assign]
    method = {
        "aggregation": Noted(2, among="all", buffers="local"),
        "topology": Star(),
        "schedule": Schedule(1, rounds_per_epoch=ROUNDS // 3),
    }
    fit(PARTS[i], transport, lambda: method)
    return json.dumps([time.monotonic() - begun[0], MOVES])


def test_nobody_waits_for_a_slow_one_whose_updates_still_come() -> None:
    ports = free_ports(3)
    outs = [json.loads(text) for text in ends(3, lambda i: paced(i, ports))]
    (hub, moves), (slow, _), (fast, heard) = outs
    assert [len(own) for _, own in outs] == [ROUNDS] * 3
    assert slow > 2 * fast
    assert slow > 2 * hub
    # Its own peer speaks in every round, the two others in most, and the slow one now and then.
    there = [count for _, count in moves]
    assert max(there) == 4
    # What the hub sends is heard: updates begin from its later and later weights.
    since = [number for number, _ in heard]
    assert since == sorted(since)
    assert since[-1] >= 3
