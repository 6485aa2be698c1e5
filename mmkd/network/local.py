"""A network on one machine: a process for each part of the peers, to try what will run on many."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd.types import ConfigError, PeerName

if TYPE_CHECKING:
    from mmkd.cli import MmkdCLI

END = 10.0
"""Seconds that a process has to end when it is asked to."""


def up(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run all processes of a network until they end; returns 0 if all have ended well, else 1.

    Args:
        options: of ``mmkd network up``.
        rest: settings, as of ``mmkd fit``.

    Raises:
        ConfigError: the configuration has no meaning, or fewer peers than processes.
    """
    parts = divided(list(configured(options, rest).model.roster[0]), options.processes)
    folder = options.folder or Path("results") / options.study
    scheme = "tls" if options.keys else "tcp"
    ends = [f"{scheme}/127.0.0.1:{options.port + i}" for i in range(len(parts))]
    common = [f"--config={file}" for file in options.config]
    for name in ("study", "deadline", "late", "stale", "gather"):
        if (value := getattr(options, name)) is not None:
            common.append(f"--{name}={value}")
    commands = [
        [
            *(
                sys.executable,
                "-m",
                "mmkd",
                "peer",
                *common,
                "--listen",
                ends[i],
                "--folder",
                str(folder / str(i)),
            ),
            *(["--hosts", *ends[:i]] if i else ["--hub"]),
            *([f"--keys={Path(options.keys) / own[0].replace('/', '-')}"] if options.keys else []),
            *("--own", *own),
            *rest,
        ]
        for i, own in enumerate(parts)
    ]
    for own, end in zip(parts, ends, strict=True):
        print(f"mmkd: {', '.join(own)} at {end}", file=sys.stderr)
    return _watch(commands, restart=options.restart)


def configured(options: argparse.Namespace, rest: Sequence[str]) -> MmkdCLI:
    """The configuration of a network, as one process has it that holds all peers.

    Args:
        options: with the files, as ``config``.
        rest: settings, as of ``mmkd fit``.

    Raises:
        ConfigError: it has no meaning.
    """
    from mmkd.cli import MmkdCLI

    return MmkdCLI([*(f"--config={file}" for file in options.config), *rest], run=False, logger=False)


def divided(names: Sequence[PeerName], processes: int) -> list[list[PeerName]]:
    """The peers of each process, as many as can be in each.

    Raises:
        ConfigError: there are fewer peers than processes.
    """
    if len(names) < processes:
        raise ConfigError(f"there are {len(names)} peers; give --processes {len(names)} or fewer")
    bounds = [len(names) * i // processes for i in range(processes + 1)]
    return [list(names[start:stop]) for start, stop in pairwise(bounds)]


def _watch(commands: Sequence[Sequence[str]], *, restart: bool) -> int:
    """Run commands side by side; what they print has their numbers before it."""
    running: dict[int, subprocess.Popen[str]] = {}
    ended: dict[int, int] = {}
    try:
        for i, command in enumerate(commands):
            running[i] = _start(i, command)
        while running:
            time.sleep(0.1)
            for i, process in list(running.items()):
                if (status := process.poll()) is None:
                    continue
                del running[i]
                if status and restart and status != 2:  # 2 is a refusal, which another start would not change
                    print(
                        f"mmkd: process {i} has ended with status {status} and is started again",
                        file=sys.stderr,
                    )
                    running[i] = _start(i, commands[i])
                else:
                    ended[i] = status
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + END
        for process in running.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
    return int(any(ended.values()))


def _start(i: int, command: Sequence[str]) -> subprocess.Popen[str]:
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    process = subprocess.Popen(
        command,
        env={**os.environ, **threads},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    threading.Thread(target=_show, args=(i, process), daemon=True).start()
    return process


def _show(i: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{i}: {line.rstrip()}", file=sys.stderr)
