"""Processes that are frozen while others wait for them, and wake again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch

from mmkd.federated import FedAvg
from mmkd.schedule import Schedule
from mmkd.topology import Star
from mmkd.transport import LocalTransport, Mail
from mmkd.transport.zenoh import AGAIN
from tests.coordination.test_elsewhere import fit
from tests.transport.test_facts import FACTS
from tests.transport.test_zenoh import ends, free_ports, over_zenoh

pytest.importorskip("zenoh")

OWN = [["a/0"], ["a/1"], ["b/0", "b/1"]]
"""Peers of each of three processes; the first has the hub."""
AT = 3
"""The round in which a process is frozen."""
PACE = 0.02
"""Seconds that an exchange takes longer, so that there are rounds left when a process wakes."""
METHOD = {
    "aggregation": FedAvg(among="all"),
    "topology": Star(),
    "schedule": Schedule(1, rounds_per_epoch=15),
}
ROUNDS = 3 * 15  # of three epochs


class Lived(NamedTuple):
    """What became of a process."""

    begins: int  # the round in which it came in again
    heard: dict[int, int]  # most messages of an exchange, by round in which it took part
    longest: float  # seconds of an exchange
    weights: bytes


def lived(i: int, ports: Sequence[int], sleeper: int, frozen: float, **how: Any) -> Any:
    """Rounds of FedAvg through a hub, in one of which a process is frozen for some seconds."""
    transport = over_zenoh(ports, i, **how)
    deliver, heard, seconds = transport.deliver, dict[int, int](), [0.0]

    def paced(mail: Mail) -> Mail:
        if i == sleeper and mail.round == AT and AT not in heard:
            subprocess.Popen(["sh", "-c", f"sleep {frozen}; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
        begun = time.monotonic()
        out = deliver(mail)
        if mail.round >= transport.begins:
            seconds.append(time.monotonic() - begun)
            heard[mail.round] = max(heard.get(mail.round, 0), len(out.messages))
            time.sleep(PACE)
        return out

    transport.deliver = paced  # type: ignore[method-assign]
    weights = fit(OWN[i], transport, lambda: METHOD).weights
    return Lived(transport.begins, heard, max(seconds), safetensors.torch.save(weights))


def averaged(out: Lived) -> list[torch.Tensor]:
    """What FedAvg averages of the first peer of a process, in an order that is that of all peers."""
    read = safetensors.torch.load(out.weights)
    first = min(name.split(".")[1] for name in read)
    own = {name.partition(first)[2]: tensor for name, tensor in read.items() if f".{first}." in name}
    return [own[name] for name in sorted(own) if own[name].is_floating_point() and "prior" not in name]


@pytest.mark.parametrize("sleeper", [1, pytest.param(0, marks=pytest.mark.long)])
def test_who_is_frozen_for_longer_than_the_deadline_comes_in_again(sleeper: int) -> None:
    """Others wait once and no longer; it leaves out what it has missed, and holds the average at the end."""
    how: dict[str, Any] = {"deadline": 3.0, "late": "go_on"}
    outs = ends(3, partial(lived, ports=free_ports(3), sleeper=sleeper, frozen=3.7, **how))
    assert all(isinstance(out, Lived) for out in outs), outs
    begins = outs[sleeper].begins
    assert AT + 1 < begins < ROUNDS - 1  # it has missed rounds, and there are some left
    assert [outs[i].begins for i in range(3) if i != sleeper] == [0, 0]
    assert max(outs[i].longest for i in range(3) if i != sleeper) < how["deadline"] + 1
    # What the hub's process hears of peers, or another of the hub; the first round that it is back may be late.
    whole, less, ear = (3, 2, 0) if sleeper else (1, 0, 1)
    for round_ in {*range(ROUNDS)} - {begins}:
        assert outs[ear].heard[round_] == (less if AT <= round_ < begins else whole), round_
    for out in outs:
        assert all(map(torch.equal, averaged(out), averaged(outs[0])))


@pytest.mark.long
def test_who_is_frozen_for_longer_than_the_deadline_ends_the_others() -> None:
    how: dict[str, Any] = {"deadline": 1.0, "late": "stop"}
    outs = ends(3, partial(lived, ports=free_ports(3), sleeper=1, frozen=1.5, **how))
    for text in outs:
        assert text.startswith("SilentError: the process of "), text
        assert f"has been silent for 1 s in the exchange of 'weights' in round {AT};" in text
    assert "'a/1'" in outs[0]
    assert "'a/1'" in outs[2]


def test_who_comes_in_is_asked_at_once_for_what_it_said_early() -> None:
    """It says it before the other was there, which neither waits to ask for it again nor hurries after it."""
    ports, comes = free_ports(2), 5

    def part(i: int) -> tuple[float, int]:
        transport = over_zenoh(ports, i, late="go_on")
        own = ["a/0", "b/0"][i]
        transport.join({own: FACTS._replace(id=own)}, {"a/0", "b/0"} - {own}, {})
        for round_ in range(comes + 1):  # it leaves out rounds between
            transport.begins = i * comes if round_ else 0
            time.sleep((1 - i) * 0.1)
            begun = time.monotonic()
            transport.deliver(Mail("logits", round_, []))
        last = time.monotonic() - begun
        transport.leave()
        return last, transport.begins

    (seconds, begins), _ = ends(2, part)
    assert seconds < AGAIN
    assert begins == 0


@pytest.mark.long
def test_who_is_frozen_for_less_changes_nothing() -> None:
    """Not for 12 s, longer than Zenoh believes in a silent link: all is as in one process."""
    outs = ends(3, partial(lived, ports=free_ports(3), sleeper=1, frozen=12.0, deadline=40.0))
    assert all(isinstance(out, Lived) for out in outs), outs
    one = fit([name for part in OWN for name in part], LocalTransport(), lambda: METHOD).weights
    for out in outs:
        for name, tensor in safetensors.torch.load(out.weights).items():
            assert torch.equal(tensor, one[name]), name
