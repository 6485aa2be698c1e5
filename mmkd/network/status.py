"""A table of a network: who is there, in which round, and what each has sent."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from mmkd.tradeoff.report.writing import si
from mmkd.transport.company import PATIENCE
from mmkd.transport.introduction import Introduction
from mmkd.transport.letters import ROOT
from mmkd.transport.session import opened

EACH = 1.0
"""Seconds between two tables."""
FINDING = 2.0
"""Seconds in which the processes are found that those at ``hosts`` know."""
HEAD = ("Process", "Peers", "Hub", "Round", "Sent")
"""The heads of the columns."""


def watch(study: str, hosts: Sequence[str], keys: str | None, *, once: bool) -> int:
    """Print a table every second until stopped; 1 if nobody is there.

    Args:
        study: of the network.
        hosts: endpoints of processes; whoever they know is found, too.
        keys: folder of certificates.
        once: print one table and end.
    """
    session = opened([], hosts, keys, 2**20, open=False)
    try:
        time.sleep(FINDING)
        while True:
            found = present(session, study)
            text = table(found)
            if once or not sys.stdout.isatty():
                print(text)
                return int(not found)
            print(f"\x1b[2J\x1b[H{study}, {time.strftime('%H:%M:%S')}\n\n{text}", flush=True)
            time.sleep(EACH)
    finally:
        session.close()


def present(session: object, study: str) -> list[Introduction]:
    """What the processes that are there tell of themselves, in the order of their names."""
    found = []
    for reply in session.get(f"{ROOT}/{study}/who/**", timeout=PATIENCE, target=_all()):  # type: ignore[attr-defined]  # untyped where Zenoh is missing
        if reply.ok is not None:
            try:
                found.append(Introduction.decode(bytes(reply.ok.payload)))
            except ValueError:
                continue
    return sorted(found, key=lambda told: told.process)


def table(found: Sequence[Introduction]) -> str:
    """A line for each process."""
    rows = [HEAD]
    for told in found:
        more = f" and {len(told.peers) - 3} more" if len(told.peers) > 3 else ""
        sent = ", ".join(f"{kind} {si(nbytes, 'B')}" for kind, nbytes in told.sent.items())
        rows.append(
            (
                told.process,
                ", ".join(told.peers[:3]) + more,
                "yes" if told.hosts else "",
                str(told.round) if told.round >= 0 else "waits",
                sent or "nothing",
            )
        )
    if len(rows) == 1:
        return "nobody is there"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _all() -> object:
    from zenoh import QueryTarget

    return QueryTarget.ALL
