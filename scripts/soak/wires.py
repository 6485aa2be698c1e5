"""Links between processes that have no other way to one another, for ``links.py`` and ``bench/networks.py``.

Each process is in a network namespace of its own, with one link, to a namespace in the middle, which has no
way out. So processes that learn one another's endpoints from Zenoh still meet only where the middle lets
them:

- through a relay in the middle, which holds back what passes, closes connections, and counts their bytes;
- or over the middle's own forwarding, where ``tbf`` limits a link, and ``nft`` drops packets.

Nothing leaves the machine, and nothing is left behind: namespaces end with their processes.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

APART = "SOAK_APART"
"""Set in the environment of a process that is in a namespace of its own."""
CLONE_NEWNET = 0x40000000
PORT = 7447
LIMIT = 2**22
"""Bytes that the relay holds of one direction of a connection before it reads no more."""


def alone() -> None:
    """Begin this script again in a new network namespace; ends with a line where none can be made."""
    if APART in os.environ:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *rights, "--net"]
    lacking = [tool for tool in ("ip", "tc", "unshare") if shutil.which(tool) is None]
    if not lacking and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[APART] = "1"
        os.execvp(command[0], [*command, sys.executable, *sys.argv])
    print(f"no network namespace can be made here {lacking or ''}, so nothing was tried", file=sys.stderr)
    sys.exit(0)


def can_drop() -> bool:
    """Whether ``nft`` is here, without which no packet is dropped."""
    return shutil.which("nft") is not None


def there(i: int) -> str:
    """The address of process ``i``."""
    return f"10.99.{i}.2"


def here(i: int) -> str:
    """The address of the middle on the link of process ``i``."""
    return f"10.99.{i}.1"


class Wires:
    """The middle of a network of processes.

    Args:
        count: of processes.
        relayed: whether what they say passes the relay; otherwise packets are forwarded.
        delay: seconds by which the relay holds back every byte.
        rate: bits a second that a link carries in each direction; as many as come, if None.
        loss: share of packets that are dropped in the middle.
    """

    def __init__(
        self,
        count: int,
        *,
        relayed: bool = False,
        delay: float = 0.0,
        rate: str | None = None,
        loss: float = 0.0,
    ) -> None:
        self._count, self._relayed, self._rate = count, relayed, rate
        self._pipe: Connection | None = None
        self._relay: Any = None
        self._waiting: dict[int, tuple[Connection, Connection]] = {}
        if not relayed:
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        if can_drop():
            nft("add table inet soak")
            nft("add chain inet soak way { type filter hook forward priority 0; }")
            nft("add chain inet soak cut { type filter hook forward priority 1; }")
            if loss:
                nft(f"add rule inet soak way numgen random mod 1000 < {round(1000 * loss)} counter drop")
        if relayed:
            self._pipe, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("fork")
            self._relay = context.Process(target=relay, args=(count, delay, theirs), daemon=True)

    def endpoints(self, i: int) -> tuple[list[str], list[str]]:
        """Where process ``i`` listens, and where it reaches those before it."""
        if self._relayed:
            return [f"tcp/{there(i)}:{PORT}"], [f"tcp/{here(i)}:{PORT + 1 + j}" for j in range(i)]
        return [f"tcp/{there(i)}:{PORT}"], [f"tcp/{there(j)}:{PORT}" for j in range(i)]

    def before(self, i: int) -> None:
        """To be called before process ``i`` is forked."""
        self._waiting[i] = multiprocessing.Pipe()

    def inside(self, i: int) -> None:
        """To be called in process ``i`` before all else: leave the middle for a namespace of its own."""
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace")
        pipe = self._waiting[i][1]
        pipe.send(os.getpid())
        pipe.recv()
        run(f"ip addr add {there(i)}/30 dev p{i}")
        self._up(f"p{i}")
        run("ip link set lo up")
        if not self._relayed:
            run(f"ip route add default via {here(i)}")
        pipe.send("up")

    def after(self, i: int) -> None:
        """To be called after process ``i`` was forked: gives it its link."""
        pipe = self._waiting.pop(i)[0]
        pid = pipe.recv()
        run(f"ip link add m{i} type veth peer name p{i}")
        run(f"ip link set p{i} netns {pid}")
        run(f"ip addr add {here(i)}/30 dev m{i}")
        self._up(f"m{i}")
        pipe.send("go")
        pipe.recv()

    def connected(self) -> None:
        """To be called when all processes have their links: begins to relay."""
        if self._relay is not None:
            self._relay.start()

    def _up(self, name: str) -> None:
        # Each packet as it would be on a wire: otherwise 64 kB are dropped at once.
        run(f"ip link set {name} up gso_max_segs 1")
        if self._rate is not None:
            run(f"tc qdisc add dev {name} root tbf rate {self._rate} burst 16kb latency 200ms")

    def part(self, *, packets: bool) -> None:
        """Separate even processes from odd ones.

        Args:
            packets: by dropping packets, of which nobody is told; otherwise by closing connections.
        """
        if not packets:
            self._ask("part")
            return
        even, odd = (", ".join(there(i) for i in range(n, self._count, 2)) for n in (0, 1))
        for one, two in ((even, odd), (odd, even)):
            nft(f"add rule inet soak cut ip saddr {{ {one} }} ip daddr {{ {two} }} counter drop")

    def heal(self, *, packets: bool) -> None:
        """End what ``part`` began."""
        if packets:
            nft("flush chain inet soak cut")
        else:
            self._ask("heal")

    def bytes(self) -> int:
        """Bytes of all connections through the relay so far, both directions: what TCP was given to carry."""
        return int(self._ask("count"))

    def dropped(self) -> int:
        """Packets that were dropped in the middle."""
        rules = json.loads(nft("list table inet soak", "-j"))["nftables"] if can_drop() else []
        said = [part["counter"] for rule in rules for part in rule.get("rule", {}).get("expr", [])
                if "counter" in part]  # fmt: skip
        return int(sum(counter["packets"] for counter in said))

    def end(self) -> None:
        """Take all links away; processes have ended."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.join()
        for i in range(self._count):
            subprocess.run(["ip", "link", "del", f"m{i}"], capture_output=True, check=False)
        if can_drop():
            nft("delete table inet soak")

    def _ask(self, what: str) -> Any:
        assert self._pipe is not None
        self._pipe.send(what)
        return self._pipe.recv()


def run(command: str) -> None:
    """Run a command of words."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.strip()}")


def nft(rule: str, *more: str) -> str:
    """Tell ``nft`` a rule; returns what it says."""
    done = subprocess.run(["nft", *more, rule], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"nft {rule}: {done.stderr.strip()}")
    return done.stdout


# --- in the relay's process -----------------------------------------------------------------------


def relay(count: int, delay: float, pipe: Connection) -> None:
    """Carry connections of each process to those before it, until killed."""
    asyncio.run(Relay(count, delay).serve(pipe))


class Relay:
    """Carries connections, and counts and holds back what passes.

    Args:
        count: of processes.
        delay: seconds by which every byte comes later.
    """

    def __init__(self, count: int, delay: float) -> None:
        self._count, self._delay = count, delay
        self._apart = False
        self._passed = 0
        self._across: set[asyncio.StreamWriter] = set()

    async def serve(self, pipe: Connection) -> None:
        """Listen for every pair of processes, and do what the pipe says."""
        for i in range(self._count):
            for j in range(i):
                await asyncio.start_server(self._carrier(i, j), here(i), PORT + 1 + j)
        does: dict[str, Callable[[], int | None]] = {
            "part": self._part,
            "heal": self._heal,
            "count": lambda: self._passed,
        }
        while True:
            said = await asyncio.to_thread(pipe.recv)
            pipe.send(does[said]())

    def _part(self) -> None:
        self._apart = True
        for writer in self._across:
            writer.transport.abort()
        self._across.clear()

    def _heal(self) -> None:
        self._apart = False

    def _carrier(self, i: int, j: int) -> Callable[[Any, Any], Any]:
        across = (i - j) % 2 == 1

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if across and self._apart:
                writer.transport.abort()
                return
            try:
                far, near = await asyncio.open_connection(there(j), PORT)
            except OSError:
                writer.transport.abort()
                return
            if across:
                self._across |= {writer, near}
            await asyncio.gather(self._pass(reader, near), self._pass(far, writer))

        return carry

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction: what is read is written later by the delay, in order."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(LIMIT // 2**16)
        now = asyncio.get_running_loop().time

        async def write() -> None:
            while True:
                due, chunk = await held.get()
                await asyncio.sleep(max(0.0, due - now()))
                writer.write(chunk)
                await writer.drain()
                self._passed += len(chunk)
                if not chunk:
                    writer.close()
                    return

        writing = asyncio.ensure_future(write())
        with suppress(OSError):
            while chunk := await reader.read(2**16):
                await held.put((now() + self._delay, chunk))
        await held.put((now() + self._delay, b""))
        with suppress(OSError):
            await writing
