"""Letters of a stranger on a network without certificates: each must be dropped, and the network goes on.

    .venv/bin/python scripts/fuzz_letters.py --mutants 100000

Two processes' transports exchange statements over the loopback interface, in threads of this process. A third
session hears all that they send, and sends mutants of it: of another instance, process, participant, kind or
round, of another study, replayed, oversized, with slips and keys that are cut or changed. Prints what became
of them. The status is 1 if one was taken, anything was raised or hung, or memory grew.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import zenoh

from mmkd.transport import Facts, Mail, Stack
from mmkd.transport.zenoh import ZenohTransport

LARGEST = 2**16
"""Bytes of the largest message."""
MEMORY = 2**28
"""Bytes by which this process may grow."""
AT_ONCE = 500
"""Mutants between two exchanges."""


class Pair:
    """Two transports that have joined."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.place = f"tcp/127.0.0.1:{free.getsockname()[1]}"
        self.one = ZenohTransport("fuzz", listen=[self.place], hosts=True, deadline=30.0, largest=LARGEST)
        self.two = ZenohTransport("fuzz", connect=[self.place], deadline=30.0, largest=LARGEST)
        shapes = {"w": torch.Size([3])}
        facts = {name: Facts(name, "point", 8, 2, 4.0, 1, shapes, (), 1.0, 3.0) for name in ("a/0", "b/0")}
        both(
            lambda: self.one.join({"a/0": facts["a/0"]}, ["b/0"], {}),
            lambda: self.two.join({"b/0": facts["b/0"]}, ["a/0"], {}),
        )

    def exchange(self, round_: int) -> None:
        """Both say something, and must hear the other and nobody else."""

        def mail(sender: str, other: str) -> Mail:
            said = torch.full((1, 4, 3), float(round_))
            return Mail("logits", round_, [Stack([sender], {"main": said}, [other])])

        got = both(lambda: self.one.deliver(mail("a/0", "b/0")), lambda: self.two.deliver(mail("b/0", "a/0")))
        assert [len(each.messages) for each in got] == [1, 1], "a letter was taken, or one was lost"


def both(*parts: Callable[[], Any]) -> list[Any]:
    """What functions give that run side by side."""
    found: dict[int, Any] = {}

    def run(i: int) -> None:
        found[i] = parts[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == len(parts), "a thread hangs or has raised"
    return [found[i] for i in range(len(parts))]


def mutant(draw: random.Random, heard: list[tuple[str, bytes, bytes]]) -> tuple[str, str, bytes, bytes]:
    """What it is, and key, slip and message of a mutant of something that was heard."""
    key, slip, message = draw.choice(heard)
    parts, read = key.split("/"), json.loads(slip)
    what = draw.choice(
        ["replayed", "instance", "study", "sender", "kind", "round", "slip", "key", "large", "place"]
    )
    if what == "instance":
        read[0] = f"{draw.getrandbits(64):016x}"
    elif what == "study":
        parts[1] = "another"
    elif what == "sender":
        parts[3:5] = draw.choice([["c", "0"], ["a", "1"], ["hub"], ["b", "0", "0"]])
        read[0] = read[0] if draw.random() < 0.5 else "0" * 16
    elif what == "kind":
        parts[parts.index("to") - 1] = draw.choice(["weights", "x" * 100, "ü"])
    elif what == "round":
        parts[2] = draw.choice(["0", "-1", "99999", "9" * 30, "x"])
    elif what == "slip":
        cut = slip[: draw.randrange(len(slip))] if draw.random() < 0.5 else bytes(draw.randbytes(len(slip)))
        return what, key, cut, message
    elif what == "key":
        parts = parts[: draw.randrange(3, len(parts))]
    elif what == "large":
        message = bytes(LARGEST + 1)
    elif what == "place":
        read[2:4] = draw.choice([[5, 3], [0, 2**40], [-1, 1], [0, 0]])
    return what, "/".join(parts), json.dumps(read).encode(), message


def main() -> int:
    """Try mutants, and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    draw, tried = random.Random(options.seed), Counter[str]()
    pair, heard = Pair(), list[tuple[str, bytes, bytes]]()
    configuration = zenoh.Config()
    given = {"mode": "client", "connect/endpoints": [pair.place], "scouting/multicast/enabled": False}
    for name, value in given.items():
        configuration.insert_json5(name, json.dumps(value))
    with zenoh.open(configuration) as stranger:
        spy = stranger.declare_subscriber(
            "mmkd/**",
            lambda s: heard.append((str(s.key_expr), bytes(s.attachment or b""), bytes(s.payload))),
        )
        time.sleep(0.5)
        for round_ in range(3):
            pair.exchange(round_)
        time.sleep(0.5)
        spy.undeclare()
        if not heard:
            raise SystemExit("nothing was heard")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, round_ = time.monotonic(), 3
        while tried.total() < options.mutants:
            for _ in range(min(AT_ONCE, options.mutants - tried.total())):
                what, key, slip, message = mutant(draw, heard)
                tried[what] += 1
                stranger.put(key, message, attachment=slip, congestion_control=zenoh.CongestionControl.BLOCK)
            pair.exchange(round_)
            round_ += 1
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    dropped = Counter[str]()
    for (_, reason), number in (pair.one.dropped + pair.two.dropped).items():
        dropped[reason] += number
    both(pair.one.leave, pair.two.leave)
    for what, number in sorted(tried.items()):
        print(f"{number:8} mutants: {what}")
    for what, number in sorted(dropped.items()):
        print(f"{number:8} dropped: {what}")
    seconds = time.monotonic() - began
    print(f"{tried.total()} mutants, {round_} exchanges in {seconds:.0f} s, {grown >> 20} MiB more memory")
    return int(grown > MEMORY)


if __name__ == "__main__":
    sys.exit(main())
