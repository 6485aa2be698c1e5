"""A function applied to many arguments, in one process or in several that end with it."""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import NamedTuple, TypeVar

from mmkd.errors import ConfigError, LostError

_T = TypeVar("_T")
_R = TypeVar("_R")


KILLED = "a process was killed, perhaps for want of memory; run the same command again"
"""What is said of a process that ended in the middle of a call."""


class Surroundings(NamedTuple):
    """What a process takes over from the one that gives it work."""

    threads: int  # of torch
    filters: bytes  # the warnings that are shown

    @classmethod
    def here(cls, threads: int) -> Surroundings:
        """Those of this process, but for its threads."""
        return cls(threads, pickle.dumps(warnings.filters))

    def take(self) -> None:
        """Make them those of this process."""
        warnings.filters[:] = pickle.loads(self.filters)  # type: ignore[index]  # a list
        import torch

        torch.set_num_threads(self.threads)


def each(processes: int, do: Callable[[_T], _R], over: Iterable[_T]) -> Generator[_R, None, None]:
    """The results of ``do``, in order, computed in turn or in processes that share torch's threads.

    If a call raises, so does this, after the calls under way have ended; no further call begins. If this
    process is interrupted, closes the iterator or dies, even by ``kill -9``, its processes end at once.

    Args:
        processes: how many; with one, all calls are made in this process.
        do: a function that pickles, as do its arguments and results.
        over: its arguments.

    Raises:
        ConfigError: fewer than one process.
        LostError: one of them was killed.
    """
    if processes < 1:
        raise ConfigError(f"work needs at least one process, not {processes}")
    if processes == 1:
        yield from map(do, over)
        return
    import torch

    surroundings = Surroundings.here(max(1, torch.get_num_threads() // processes))
    # A fork would copy locks that torch's threads hold.
    spawn = get_context("spawn")
    # Nobody else holds the end that is written to, so the operating system closes it with this process.
    watched, held = spawn.Pipe(duplex=False)
    with watched, held, ProcessPoolExecutor(processes, spawn, _prepare, (surroundings, watched)) as pool:
        calls = [pool.submit(do, argument) for argument in over]
        try:
            for call in calls:
                yield call.result()
        except BrokenProcessPool as error:
            raise LostError(KILLED) from error
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise
        except BaseException:
            held.close()
            raise


def _prepare(surroundings: Surroundings, watched: Connection) -> None:
    """Set a new process up: its end, and what it takes over from its parent.

    The first is done before anything is imported that takes seconds, in which the parent may end.
    """
    # Ctrl-C reaches all processes of a terminal; the parent says what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(watched,), daemon=True).start()
    surroundings.take()


def _end_with(watched: Connection) -> None:
    """End this process when the other end of a pipe is closed; nothing is ever written to it."""
    watched.poll(None)
    os._exit(1)
