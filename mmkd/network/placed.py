"""A network on a cluster: its processes are Ray actors, which begin again where they stopped if one dies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmkd.errors import ConfigError, LostError, SilentError
from mmkd.launch.cluster import Share, joined
from mmkd.launch.shared import Shared
from mmkd.lock import holding
from mmkd.network import peer
from mmkd.network.local import configured, divided
from mmkd.processes import Surroundings
from mmkd.types import PeerName

TRIES = 3
"""How often processes begin again, one time after the other, without a further round that is saved."""
END = 30.0
"""Seconds that processes have to end."""


class Process:
    """One process of a network, which Ray makes an actor.

    Args:
        number: of the process.
        surroundings: those of the process that gave the command.
        shared: the network's folder.
    """

    def __init__(self, number: int, surroundings: Surroundings, shared: Shared) -> None:
        self._number, self._surroundings, self._shared = number, surroundings, shared

    def __repr__(self) -> str:
        """The number, which Ray writes before each line that is printed."""
        return str(self._number)

    def address(self) -> str:
        """Where its machine is reached, if that sees the network's folder."""
        import ray

        self._shared.enter()
        return str(ray.util.get_node_ip_address())

    def train(self, arguments: Sequence[str], place: peer.Place, folder: Path) -> None:
        """Train and test the peers of this process (``mmkd.network.peer``)."""
        self._surroundings.take()
        peer.run(arguments, place, folder)


class Part(NamedTuple):
    """A process of a network as it is planned."""

    own: Sequence[PeerName]
    folder: Path
    keys: str | None  # folder of its certificate


class Network:
    """The processes of a network on a cluster.

    Args:
        share: what each process gets of the cluster, which this one has joined.
        parts: of the network.
        options: of ``mmkd launch``.
        rest: settings, as of ``mmkd fit``.
        shared: the network's folder.
    """

    def __init__(
        self,
        share: Share,
        parts: Sequence[Part],
        options: argparse.Namespace,
        rest: Sequence[str],
        shared: Shared,
    ) -> None:
        import ray

        self._ray, self._parts, self._options, self._shared = ray, parts, options, shared
        self._arguments = [*(f"--config={file}" for file in options.config), *rest]
        self._surroundings = Surroundings.here(share.cores)
        self._actor: Any = ray.remote(
            num_cpus=share.cores, num_gpus=share.gpus, scheduling_strategy="SPREAD"
        )(Process)
        self._actors: dict[int, Any] = {}
        self._addresses: dict[int, str] = {}

    def run(self) -> None:
        """Train until all processes have ended well.

        Raises:
            ConfigError: a setting has no meaning, or the processes do not fit.
            LostError: processes die time and again, and no round is saved in between.
        """
        running = self._begin([*range(len(self._parts))])
        tries, newest = 0, self._newest()
        while running:
            [ended], _ = self._ray.wait(list(running), num_returns=1)
            number = running.pop(ended)
            if (why := self._lost(ended)) is None:
                continue
            tries, newest = (tries + 1, newest) if self._newest() == newest else (1, self._newest())
            if tries > TRIES:
                raise LostError(f"process {number} {why}, {tries} times without a further round; see above")
            # Where all wait for all, nobody can go on without it: all begin where all can.
            again = [*range(len(self._parts))] if self._options.late == "stop" else [number]
            told = "it begins" if len(again) == 1 else "all begin"
            print(f"mmkd: process {number} {why}; {told} again after the last round", file=sys.stderr)
            running = self._end(running, again) | self._begin(again)

    def _begin(self, numbers: Sequence[int]) -> dict[Any, int]:
        """Start processes; returns what stands for each one's end."""
        for i in numbers:
            self._actors[i] = self._actor.remote(i, self._surroundings, self._shared)
        asked = [self._actors[i].address.remote() for i in numbers]
        # None trains before there is room for all.
        try:
            found = dict(zip(numbers, self._got(asked), strict=True))
        except self._ray.exceptions.RayError as error:
            raise LostError("a process has died as it began; run the same command again") from error
        moved = {i for i in numbers if self._addresses.get(i, found[i]) != found[i]}
        self._addresses |= found
        scheme = "tls" if self._options.keys else "tcp"
        ends = {i: f"{scheme}/{host}:{self._options.port + i}" for i, host in self._addresses.items()}
        begun = {}
        for i in numbers:
            print(f"mmkd: {', '.join(self._parts[i].own)} at {ends[i]}", file=sys.stderr)
            place = self._place(i, ends, moved=i in moved and len(numbers) == 1)
            begun[self._actors[i].train.remote(self._arguments, place, self._parts[i].folder)] = i
        return begun

    def _place(self, number: int, ends: Mapping[int, str], *, moved: bool) -> peer.Place:
        options, part = self._options, self._parts[number]
        return peer.Place(
            study=options.study,
            own=part.own,
            listen=[ends[number]],
            # Each connects to those before it, so that no two connect to one another. Who is placed elsewhere
            # than before is not looked for there, and connects to all.
            hosts=[end for i, end in ends.items() if i < number or (moved and i != number)],
            hub=number == 0,
            deadline=options.deadline,
            late=options.late,
            stale=options.stale,
            gather=options.gather,
            keys=part.keys,
            open=options.open,
        )

    def _end(self, running: Mapping[Any, int], numbers: Sequence[int]) -> dict[Any, int]:
        """End processes, and wait until they have; returns what stands for the ends of the others."""
        for i in numbers:
            self._ray.kill(self._actors[i])
        ending = [end for end, i in running.items() if i in numbers]
        self._ray.wait(ending, num_returns=len(ending), timeout=END) if ending else None
        return {end: i for end, i in running.items() if i not in numbers}

    def _lost(self, ended: Any) -> str | None:
        """Why a process has ended before its time; None if it has not."""
        try:
            self._got(ended)
        except SilentError:
            return "was left alone by the others"
        except self._ray.exceptions.RayError as error:
            return f"has died ({type(error).__name__})"
        return None

    def _got(self, ended: Any) -> Any:
        """What calls have returned; their own errors are raised as they were."""
        try:
            return self._ray.get(ended)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def _newest(self) -> list[int]:
        """The newest round that each process has saved."""
        from mmkd.callbacks.round_checkpoints import found

        return [max(found(part.folder / "checkpoints"), default=-1) for part in self._parts]


def launch(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run a configuration in processes on a cluster until they end; returns 0.

    Args:
        options: of ``mmkd launch``.
        rest: settings, as of ``mmkd fit``.

    Raises:
        ConfigError: the configuration has no meaning, there are fewer peers than processes, or there is no
            room for all processes at once.
        LostError: processes die time and again.
    """
    with joined(options.address, options.processes, imports="mmkd.cli") as cluster:
        cli = configured(options, rest)
        own = divided(list(cli.model.roster[0]), options.processes)
        share = cluster.share([str(cli.config.trainer.accelerator)])
        if sum(cluster.cores) < len(own):
            raise ConfigError(
                f"the cluster has {sum(cluster.cores)} cores for {len(own)} processes, which run at the same"
                " time; give --processes a smaller number"
            )
        folder = (options.folder or Path("results") / options.study).absolute()
        parts = [
            Part(
                peers,
                folder / str(i),
                str(Path(options.keys) / peers[0].replace("/", "-")) if options.keys else None,
            )
            for i, peers in enumerate(own)
        ]
        with holding(folder):
            Network(share, parts, options, rest, Shared.held(folder)).run()
    return 0
