"""A device asks a service over the loopback interface: a load, a kill, a freeze, and one that comes back.

    python scripts/soak/offloading.py RUN --device phones/1 --to phones/0

RUN is the folder of a run. A service is ``mmkd serve`` in a process of its own. A line each: how many samples
were answered, by whom, right, how fast, and whether any took longer than the device's patience and a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkd.edge.asking import Answer, Cascade
from mmkd.edge.graph import Graph
from mmkd.edge.serving import LARGEST
from mmkd.edge.trained import trained
from mmkd.edge.validating import validated
from mmkd.transport.session import opened


def service(run: Path, peer: str, port: int) -> subprocess.Popen[str]:
    """A service that is ready to answer."""
    command = [sys.executable, "-m", "mmkd", "serve", str(run), "--peer", peer]
    started = subprocess.Popen(
        [*command, "--listen", f"tcp/127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert started.stdout is not None
    if "answers at" not in started.stdout.readline():
        raise SystemExit(f"the service of {peer} did not start")
    return started


async def ask(device: Cascade, x: Tensor, meanwhile: Sequence[tuple[float, Any]] = ()) -> list[Answer]:
    """The answers to all samples at once; ``meanwhile`` holds what happens after how many seconds."""
    tasks = [asyncio.create_task(device.answer(row[None])) for row in x]
    for after, what in meanwhile:
        threading.Timer(after, what).start()
    return list(await asyncio.gather(*tasks))


def report(
    name: str, found: Sequence[Answer], y: Tensor, patience: float, device: Cascade, before: int
) -> None:
    """Print what became of the samples."""
    took = torch.tensor([answer.seconds for answer in found]).double()
    named = torch.tensor([int(answer.probabilities.argmax()) for answer in found])
    asked = sum(answer.asked for answer in found)
    answered = sum(bool(answer.by) for answer in found)
    spent = device.counts["sent"] + device.counts["received"] - before
    print(
        f"{name:34} {len(found):5} answered, {asked:4} asked, {answered:4} by others;"
        f" right {float((named == y).double().mean()):6.1%}; ms median {1000 * took.median():6.1f},"
        f" p95 {1000 * took.quantile(0.95):7.1f}, most {1000 * took.max():7.1f};"
        f" bytes a question {spent / max(1, asked):6.0f};"
        f" late {int((took > 1.1 * patience).sum())}, lost {len(y) - len(found)}",
        flush=True,
    )


def main() -> None:
    """Try all of it in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", default="phones/1")
    parser.add_argument("--to", default="phones/0")
    parser.add_argument("--ask", type=float, default=0.2)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--patience", type=float, default=5.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = trained(options.run, None, [])
    student = run.student(options.device)
    facts = validated(student, run.data, options.device, options.ask)
    reader = run.data.reader(options.device, "test")
    batch = reader.batch(torch.arange(len(reader)), 0)
    assert batch.y is not None
    many = torch.arange(options.requests) % len(reader)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = service(options.run, options.to, port)
    session = opened([], [f"tcp/127.0.0.1:{port}"], None, LARGEST, open=False)
    time.sleep(1)

    def cascade(threshold: float) -> Cascade:
        graph = Graph(student, facts.temperature)
        return Cascade(
            graph,
            session,
            "edge",
            options.device,
            [options.to],
            threshold=threshold,
            patience=options.patience,
        )

    def tried(name: str, threshold: float, rows: Tensor, *meanwhile: tuple[float, Any]) -> None:
        device = cascade(threshold)
        found = asyncio.run(ask(device, batch.x[rows], meanwhile))
        assert batch.y is not None
        report(name, found, batch.y[rows], options.patience, device, 0)

    every = torch.arange(len(reader))
    try:
        tried("alone", 0.0, every)
        tried(f"unsure of {options.ask:.0%}", facts.threshold, every)
        tried("asks about everything", 1.0, every)
        tried(f"{options.requests} at once", 1.0, many)
        tried("the service is killed meanwhile", 1.0, many, (1.0, started.kill))
        started.wait()
        tried("nobody is there", 1.0, every)
        started = service(options.run, options.to, port)
        time.sleep(3)
        tried("another service, same device", 1.0, every)
        tried("the service is frozen", 1.0, every, (0.0, lambda: os.kill(started.pid, signal.SIGSTOP)))
        os.kill(started.pid, signal.SIGCONT)
        time.sleep(1)
        tried("and goes on", 1.0, every)
    finally:
        started.terminate()
        assert started.stdout is not None
        print(started.stdout.read().strip())
        session.close()


if __name__ == "__main__":
    main()
