"""A function applied to many arguments, in one process or in several that end with it."""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import TypeVar

from mmkd.errors import ConfigError

_T = TypeVar("_T")
_R = TypeVar("_R")


def each(processes: int, do: Callable[[_T], _R], over: Iterable[_T]) -> Iterator[_R]:
    """The results of ``do``, in order, computed in turn or in processes that share torch's threads.

    If a call raises, so does this, after the calls under way have ended; no further call begins. If this
    process is interrupted, closes the iterator or dies, even by ``kill -9``, its processes end at once.

    Args:
        processes: how many; with one, all calls are made in this process.
        do: a function that pickles, as do its arguments and results.
        over: its arguments.

    Raises:
        ConfigError: fewer than one process.
    """
    if processes < 1:
        raise ConfigError(f"work needs at least one process, not {processes}")
    if processes == 1:
        yield from map(do, over)
        return
    import torch

    threads = max(1, torch.get_num_threads() // processes)
    # A fork would copy locks that torch's threads hold.
    spawn = get_context("spawn")
    # Nobody else holds the end that is written to, so the operating system closes it with this process.
    watched, held = spawn.Pipe(duplex=False)
    settings = threads, pickle.dumps(warnings.filters), watched
    with watched, held, ProcessPoolExecutor(processes, spawn, _prepare, settings) as pool:
        calls = [pool.submit(do, argument) for argument in over]
        try:
            for call in calls:
                yield call.result()
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise
        except BaseException:
            held.close()
            raise


def _prepare(threads: int, filters: bytes, watched: Connection) -> None:
    """Set a new process up: its end, its share of threads, and the warnings that its parent shows.

    The first is done before anything is imported that takes seconds, in which the parent may end.
    """
    # Ctrl-C reaches all processes of a terminal; the parent says what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(watched,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    warnings.filters[:] = pickle.loads(filters)  # type: ignore[index]  # a list


def _end_with(watched: Connection) -> None:
    """End this process when the other end of a pipe is closed; nothing is ever written to it."""
    watched.poll(None)
    os._exit(1)
