"""A Ray cluster: one that runs, or one of this machine's own that begins and ends with the work."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import signal
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from mmkd.errors import ConfigError
from mmkd.processes import Surroundings

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Settings that Ray reads when it is imported: it reports nothing to anybody, shows every line that is
printed, and leaves the GPUs of a process alone that has asked for none."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""Settings of a cluster of this machine's own. Despite its name the first is what makes Ray 2.60 listen on
the loopback interface alone, on every system; with the second it heeds nobody who does not know its token."""
STORE = 80 * 2**20
"""Bytes of memory for objects that Ray keeps on this machine: results are files, and it needs hardly any."""


class Share(NamedTuple):
    """What each of equal pieces of work gets of a cluster."""

    cores: int  # of one machine
    gpus: float


class Cluster(NamedTuple):
    """A cluster that this process has joined."""

    own: bool  # whether it is this machine alone, and ends with the work
    cores: tuple[int, ...]  # of each machine that has any
    gpus: int
    pieces: int | None  # of work that are done side by side; as many as there is room for, if None

    def share(self, accelerators: Collection[str]) -> Share:
        """The share of each piece of work.

        Args:
            accelerators: what trainers ask for: ``gpu`` and ``cuda`` want a GPU, and ``auto`` one where
                there are any.

        Raises:
            ConfigError: a trainer asks for a GPU, and there is none.
        """
        needed = {"gpu", "cuda"} & {*accelerators}
        if needed and not self.gpus:
            raise ConfigError(
                f"trainer.accelerator is {' and '.join(sorted(needed))}, and no machine of the cluster has a"
                " GPU; set it to cpu"
            )
        asked = bool(self.gpus and (needed or "auto" in accelerators))
        pieces = self.pieces or (self.gpus if asked else sum(self.cores))
        cores = max(1, min(sum(self.cores) // pieces, *self.cores))
        while cores > 1 and sum(number // cores for number in self.cores) < pieces:
            cores -= 1
        return Share(cores, 1 / math.ceil(pieces / self.gpus) if asked else 0)


@contextmanager
def joined(address: str | None, pieces: int | None = None, *, imports: str = "") -> Iterator[Cluster]:
    """Connect to a cluster, or start one; work that is not done at the end is ended, however that comes.

    Args:
        address: of a cluster that runs; that of the environment's ``RAY_ADDRESS`` if None, and if there is
            none, a cluster of this machine's own is started.
        pieces: how many pieces of work are done side by side; as many as there is room for, if None.
        imports: a module that the work needs, which processes of this machine's own cluster begin to import
            while this one does other things.

    Raises:
        ConfigError: Ray is not installed, no cluster answers at the address, or there is less than one piece.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("a cluster needs Ray: install mmkd[cluster]")
    if pieces is not None and pieces < 1:
        raise ConfigError(f"a cluster does at least one piece of work at a time, not {pieces}")
    os.environ.update(QUIET)
    address = address or os.environ.get("RAY_ADDRESS") or None
    # Ray sets handlers of its own, which exit without a word.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with ExitStack() as ending:
        try:
            if address is None:
                # Names of sockets have 107 bytes at most, and Ray's end in sixty of its own.
                folder = TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
                _start(ending.enter_context(folder), pieces)
            else:
                _connect(address)
            _restore(handlers)
            cluster = _cluster(address is None, pieces)
            if cluster.own and imports:
                _prepare(sum(cluster.cores), imports)
            yield cluster
        finally:
            import ray

            ray.shutdown()
            _restore(handlers)


def _start(folder: str, cores: int | None) -> None:
    """Start a cluster of this machine's own, with its sockets and logs in a folder."""
    os.environ.update(LOOPBACK)
    os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
    import ray

    # Without its dashboard Ray 2.60 starts a process in its place, which asks the addresses where clouds
    # tell about machines even if usage is not reported. It does without if its port is taken.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            dashboard_host="127.0.0.1",
            dashboard_port=taken.getsockname()[1],
            logging_level=logging.CRITICAL,
            object_store_memory=STORE,
            _temp_dir=folder,
        )


def _connect(address: str) -> None:
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # where nobody listens Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"no Ray cluster can be joined at {address}: {said}") from error


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _cluster(own: bool, pieces: int | None) -> Cluster:
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    if not any(cores):
        raise ConfigError("no machine of the Ray cluster has a core for work; add one with ray start")
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    return Cluster(own, tuple(number for number in cores if number), gpus, pieces)


def _prepare(processes: int, module: str) -> None:
    """Have as many processes import a module, and do not wait for them."""
    import ray

    surroundings = Surroundings.here(1)
    imported: Any = ray.remote(num_cpus=1)(_import)
    for _ in range(processes):
        imported.remote(surroundings, module)


def _import(surroundings: Surroundings, module: str) -> None:
    surroundings.take()
    importlib.import_module(module)
