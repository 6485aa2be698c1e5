"""One process a folder: a lock that ends with the process that holds it, and says who that is."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mmkd.errors import ConfigError
from mmkd.files import replacing

LOCK = ".lock"
"""File that is locked; it stays, for whoever removes it may let two processes in."""
HOLDER = ".holder"
"""File that says which process holds a folder."""


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a folder, which is made if it is missing.

    The operating system ends the lock with the process, however it dies, so nothing has to be cleared away.

    Raises:
        ConfigError: another process holds the folder; it is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / LOCK, blocking=False), folder / HOLDER
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"{folder} is in use by {_named(holder)}; wait until it ends, or write to another folder"
        ) from None
    try:
        with replacing(holder) as part:
            part.write_text(json.dumps(_myself()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _myself() -> dict[str, str | int]:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"process": os.getpid(), "machine": platform.node(), "since": since, "command": command}


def _named(holder: Path) -> str:
    """The process that holds a folder, in words; it may be about to write them or to end."""
    try:
        found = json.loads(holder.read_text())
        return f"process {found['process']} on {found['machine']} since {found['since']} ({found['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
