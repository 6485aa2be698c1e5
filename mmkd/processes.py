"""A function applied to many arguments, in one process or in several."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from mmkd.types import ConfigError

_T = TypeVar("_T")
_R = TypeVar("_R")


def each(processes: int, do: Callable[[_T], _R], over: Iterable[_T]) -> Iterator[_R]:
    """The results of ``do``, in order, computed in turn or in processes that share torch's threads.

    If a call raises, so does this, after the calls under way have ended; no further call begins.

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
    threads = max(1, torch.get_num_threads() // processes)
    # A fork would copy locks that torch's threads hold.
    spawn = get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, _prepare, (threads, warnings.filters[:])) as pool:
        yield from pool.map(do, over)


def _prepare(threads: int, filters: Sequence[Any]) -> None:
    """Set a new process up: its share of threads, and the warnings that its parent shows."""
    torch.set_num_threads(threads)
    warnings.filters[:] = filters  # type: ignore[index]  # a list
