"""Processes joined by Zenoh end as one process does; traffic stays on the loopback interface."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import safetensors.torch
import torch

from mmkd.ledger import JOINING, Ledger
from mmkd.transport import LocalTransport, Transport
from tests.coordination.test_elsewhere import GATE, LONG, Out, fit

pytest.importorskip("zenoh")


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

    ends = [f"tcp/127.0.0.1:{port}" for port in ports]
    given = {"study": "test", "hosts": i == 0, "deadline": 20.0, "gather": 30.0, **how}
    return ZenohTransport(listen=[ends[i]], connect=ends[:i][-1:], **given)


def in_processes(parts: Sequence[Sequence[str]], do: Callable[[int], Out]) -> list[Out]:
    """What processes give that each do their part; each is a fork, and none of Zenoh's threads are."""
    context = multiprocessing.get_context("fork")
    pipes = []
    for i in range(len(parts)):
        told, tell = context.Pipe(duplex=False)

        def work(i: int = i, tell: Any = tell) -> None:
            try:
                out = do(i)
                tell.send(out._replace(weights=safetensors.torch.save(out.weights)))
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
        got = told.recv() if told.poll(120) else "no answer"
        process.join(20)
        if isinstance(got, str):
            pytest.fail(got)
        outs.append(got._replace(weights=safetensors.torch.load(got.weights)))
    return outs


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
    method = (GATE | LONG)[name]
    ports = free_ports(4)
    outs = in_processes(FOUR, lambda i: fit(FOUR[i], over_zenoh(ports, i), method))
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
