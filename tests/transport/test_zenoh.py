"""Processes joined by Zenoh end as one process does; traffic stays on the loopback interface."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mmkd.encoding.messages import decode
from mmkd.federated import FedAvg
from mmkd.ledger import JOINING, Ledger
from mmkd.network import status
from mmkd.network.keys import make
from mmkd.schedule import Schedule
from mmkd.topology import Star
from mmkd.transport import LocalTransport, Mail, Stack, Transport
from mmkd.types import ConfigError, SilentError
from tests.coordination.test_elsewhere import GATE, LONG, Out, fit
from tests.transport.test_facts import FACTS

pytest.importorskip("zenoh")
ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def over_zenoh(ports: Sequence[int], i: int, **how: Any) -> Transport:
    """The transport of process ``i``, which listens on its port and connects to the one before."""
    from mmkd.transport.zenoh import ZenohTransport

    places = [f"{'tls' if 'keys' in how else 'tcp'}/127.0.0.1:{port}" for port in ports]
    given = {"study": "test", "hosts": i == 0, "deadline": 20.0, "gather": 30.0, **how}
    return ZenohTransport(listen=[places[i]], connect=places[:i][-1:], **given)


def ends(count: int, do: Callable[[int], Out | str]) -> list[Any]:
    """How processes end that each do their part; each is a fork, and none of Zenoh's threads are."""
    context = multiprocessing.get_context("fork")
    pipes = []
    for i in range(count):
        told, tell = context.Pipe(duplex=False)

        def work(i: int = i, tell: Any = tell) -> None:
            try:
                out = do(i)
                if isinstance(out, Out):
                    out = out._replace(weights=safetensors.torch.save(out.weights))  # type: ignore[arg-type]
                tell.send(out)
            except (ConfigError, SilentError) as error:
                tell.send(f"{type(error).__name__}: {error}")
            except BaseException:
                tell.send(traceback.format_exc())
            finally:
                os._exit(0)

        process = context.Process(target=work)
        process.start()
        tell.close()
        pipes.append((process, told))
    outs = []
    for process, told in pipes:
        try:
            outs.append(told.recv() if told.poll(120) else "no answer")
        except EOFError:
            outs.append("gone")
        process.kill()
        process.join(20)
    return outs


def in_processes(parts: Sequence[Sequence[str]], do: Callable[[int], Out]) -> list[Out]:
    """How processes end of which none fails."""
    outs = ends(len(parts), do)
    for out in outs:
        if isinstance(out, str):
            pytest.fail(out)
    return [out._replace(weights=safetensors.torch.load(out.weights)) for out in outs]


FOUR = [["a/0"], ["a/1"], ["b/0"], ["b/1"]]
"""Peers of each of four processes."""


@pytest.mark.parametrize(
    "name",
    [
        "logits on a cycle",
        "SCAFFOLD, some absent",
        *(pytest.param(n, marks=pytest.mark.long) for n in [*GATE, *LONG] if "collectives" not in n),
    ],
)
def test_four_processes_are_one(name: str) -> None:
    """Every bit of every peer; ledgers add up to that of one process, but for what joining costs."""
    check(name, {})


@pytest.mark.parametrize(
    "name",
    [
        "FedAvg through a hub, some absent",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("MHD", "SCAFFOLD", "gossip", "hybrid")),
    ],
)
def test_so_they_are_with_certificates_and_with_clocks_that_are_an_hour_off(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutual TLS and access control change no bit, with a hub and answers from it; nor does a wrong clock."""
    made = make(tmp_path / "keys", FOUR, "hub", ["127.0.0.1"], 1)
    true, off = time.time, [0.0, 3600.0, -3600.0, 0.0]

    def set_clock(i: int) -> None:
        monkeypatch.setattr(time, "time", lambda: true() + off[i] * (true() % 2 // 1))  # and it jumps

    check(name, {"keys": made}, set_clock)


def check(name: str, how: dict[str, Any], before: Callable[[int], None] = lambda _: None) -> None:
    """Compare a method in four processes, each of which does something before, with the same in one."""
    method = (GATE | LONG)[name]
    ports = free_ports(4)

    def part(i: int) -> Out:
        before(i)
        own = {key: str(values[i]) for key, values in how.items()}
        return fit(FOUR[i], over_zenoh(ports, i, **own), method)

    outs = in_processes(FOUR, part)
    one = fit([p for part in FOUR for p in part], LocalTransport(), method)
    for part, out in zip(FOUR, outs, strict=True):
        assert out.weights.keys() == {n for n in one.weights if n.split(".")[1] in part}
        for n, tensor in out.weights.items():
            assert torch.equal(tensor, one.weights[n]), n
    ledger, *others = [Ledger.from_state(out.ledger) for out in outs]
    for other in others:
        ledger = ledger + other
    added = ledger.state_dict()
    added["bytes"] = [row for row in added["bytes"] if row[3] != JOINING]  # type: ignore[attr-defined]
    assert added == one.ledger


# --- who does not fit ------------------------------------------------------------------------------


def alone(i: int, own: Sequence[str], ports: Sequence[int], **how: Any) -> str:
    """A process that joins, and says whom it has met."""
    settings = how.pop("settings", {"decentralized.schedule.local_steps": 2})
    transport = over_zenoh(ports, i, **{"gather": 8.0, **how})
    facts = {name: FACTS._replace(id=name) for name in own}
    met = transport.join(facts, {"a/0", "b/0"} - {*own}, settings)
    transport.deliver(Mail("logits", 0, []))
    transport.leave()
    return ",".join(met)


def test_processes_meet_whoever_is_first() -> None:
    ports = free_ports(2)
    assert ends(2, lambda i: alone(i, [["a/0"], ["b/0"]][i], ports)) == ["a/0,b/0"] * 2


def test_another_study_is_not_heard() -> None:
    ports = free_ports(2)
    got = ends(2, lambda i: alone(i, [["a/0"], ["b/0"]][i], ports, study=["one", "two"][i], gather=1.5))
    assert all(text.startswith("ConfigError: after 2 s nobody has come who holds") for text in got)


def test_of_two_with_one_peer_one_goes() -> None:
    """The other waits for the peer that is lacking, and says so."""
    ports = free_ports(2)
    got = sorted(ends(2, lambda i: alone(i, ["a/0"], ports, gather=3.0, hosts=False)))
    assert "after 3 s nobody has come who holds 'b/0'" in got[0]
    assert "another process of 'test' holds the peer 'a/0'" in got[1]


def test_another_configuration_is_named() -> None:
    ports = free_ports(2)
    steps = [{"decentralized.schedule.local_steps": n, "model.init": "shared"} for n in (2, 3)]
    got = ends(2, lambda i: alone(i, [["a/0"], ["b/0"]][i], ports, settings=steps[i], gather=2.0))
    assert any("has another decentralized.schedule.local_steps;" in text for text in got), got
    assert all(text.startswith("ConfigError") for text in got), got


def test_hubs_are_in_one_process() -> None:
    ports = free_ports(2)
    got = ends(2, lambda i: alone(i, [["a/0"], ["b/0"]][i], ports, hosts=True))
    assert all("hubs are in one process" in text for text in got), got


def rounds(i: int, ports: Sequence[int], late: str) -> Out | str:
    """Ten rounds of FedAvg through a hub in the first process, whose second one is gone after the third."""
    own = [["a/0"], ["a/1"], ["b/0", "b/1"]][i]
    transport = over_zenoh(ports, i, deadline=2.0, late=late)
    if i == 1:
        deliver = transport.deliver

        def gone(mail: Mail) -> Mail:
            if mail.round == 3:
                os._exit(0)
            return deliver(mail)

        transport.deliver = gone  # type: ignore[method-assign]
    method = {
        "aggregation": FedAvg(among="all"),
        "topology": Star(),
        "schedule": Schedule(1, rounds_per_epoch=4),
    }
    return fit(own, transport, lambda: method)


@pytest.mark.parametrize("late", ["stop", "go_on"])
def test_one_that_is_gone(late: str) -> None:
    """The others stop after the deadline and say who is silent, or go on without it."""
    ports = free_ports(3)
    first, _, third = ends(3, partial(rounds, ports=ports, late=late))
    if late == "stop":
        for text in (first, third):
            assert "SilentError: the process of 'a/1' has been silent for 2 s" in text
            assert "in round 3; go on from the last checkpoints" in text
        return
    weights = [safetensors.torch.load(out.weights) for out in (first, third)]
    ledgers = [Ledger.from_state(out.ledger) for out in (first, third)]
    # Whoever is left holds the average at the end.
    for name, tensor in weights[0].items():
        if name.endswith("log_prior"):  # which never leaves a peer
            continue
        other = weights[1][name.replace("a/0", "b/0")]
        assert torch.equal(tensor, other), name
    assert max(row[0] for row in ledgers[0].state_dict()["bytes"]) == 11


class Deaf:
    """A session that loses every letter that is put, and does all else."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def put(self, *_: Any, **__: Any) -> None:
        """Lose a letter."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def test_all_letters_that_got_lost_are_asked_for_again() -> None:
    """Three of one exchange, of which none arrives at first; each is heard once, in the order of senders."""
    ports = free_ports(2)

    def part(i: int) -> str:
        transport: Any = over_zenoh(ports, i)
        own = [["a/0", "a/1", "a/2"], ["b/0"]][i]
        transport.join(
            {name: FACTS._replace(id=name) for name in own}, {"a/0", "a/1", "a/2", "b/0"} - {*own}, {}
        )
        stacks = []
        if i == 0:
            transport._post._session = Deaf(transport._post._session)
            stacks = [Stack(own, {"logits": torch.arange(3.0)[:, None]}, ["b/0"])]
        heard = transport.deliver(Mail("logits", 0, stacks)).messages
        transport.leave()
        said = [decode(message.encoded) for message in heard]
        return " ".join(f"{payload.sender}:{payload.tensors['logits'].item():.0f}" for payload in said)

    assert ends(2, part) == ["", "a/0:0 a/1:1 a/2:2"]


def test_whoever_looks_sees_all_processes_although_it_knows_one() -> None:
    """In the table of ``mmkd network status``."""
    ports = free_ports(2)

    def part(i: int) -> str:
        if i == 2:
            time.sleep(1)
            with redirect_stdout(io.StringIO()) as text:
                status.watch("test", [f"tcp/127.0.0.1:{ports[0]}"], None, once=True)
            return text.getvalue()
        transport, own = over_zenoh(ports, i), ["a/0", "b/0"][i]
        transport.join({own: FACTS._replace(id=own)}, {"a/0", "b/0"} - {own}, {})
        time.sleep(5)
        transport.leave(at_once=True)
        return own

    table = ends(3, part)[2].splitlines()
    assert [line.split()[0] for line in table] == ["Process", "a/0", "b/0"]


def test_letters_of_a_stranger_are_dropped() -> None:
    """Two thousand mutants; ``scripts/test --long`` tries a hundred thousand."""
    command = [sys.executable, "scripts/fuzz_letters.py", "--mutants", "2000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^2000 mutants, 7 exchanges", done.stdout, re.MULTILINE)
    assert int(re.search(r"(\d+) dropped: stranger", done.stdout)[1]) > 100  # type: ignore[index]
