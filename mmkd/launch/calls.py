"""A function applied to many arguments on the machines of a cluster."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Generator, Iterable
from pathlib import Path
from typing import Any, TypeVar

from mmkd.errors import LostError
from mmkd.launch.cluster import Cluster
from mmkd.launch.shared import Shared
from mmkd.processes import KILLED, Surroundings

_T = TypeVar("_T")
_R = TypeVar("_R")
TRIES = 3
"""How often a call is made again after its process, or the machine of it, has died."""


def each(
    cluster: Cluster,
    do: Callable[[_T], _R],
    over: Iterable[_T],
    *,
    folder: Path,
    accelerators: Collection[str],
) -> Generator[_R, None, None]:
    """The results of ``do``, in order, as ``mmkd.processes.each`` gives them, from processes of a cluster.

    A process makes one call after the other. A call whose process dies is made again, elsewhere if need be.

    Args:
        cluster: where calls are made, which this process has joined.
        do: a function that pickles, as do its arguments and results, and that may be called again.
        over: its arguments.
        folder: what it writes to, which this process holds and all machines must see.
        accelerators: what its trainers ask for.

    Raises:
        ConfigError: a machine does not see the folder, or has no GPU that is asked for.
        LostError: the processes of a call have died, each time.
    """
    import ray
    import torch

    share = cluster.share(accelerators)
    threads = share.cores
    if cluster.own:  # as without a cluster
        threads = max(1, torch.get_num_threads() * share.cores // sum(cluster.cores))
    given = ray.put((Surroundings.here(threads), Shared.held(folder), ray.cloudpickle.dumps(do)))
    call: Any = ray.remote(num_cpus=share.cores, num_gpus=share.gpus, max_retries=TRIES)(_call)
    for result in [call.remote(given, argument) for argument in over]:
        try:
            yield ray.get(result)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise LostError(KILLED) from error


def _call(given: tuple[Surroundings, Shared, bytes], argument: Any) -> Any:
    """One call, in a process of the cluster."""
    surroundings, shared, do = given
    shared.enter()
    surroundings.take()
    return pickle.loads(do)(argument)
