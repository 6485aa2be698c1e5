"""Time a federated round of many small peers through the coordinator, against bare loops.

A bare loop makes the same gradient evaluations, vectorised, with plain SGD and no framework around it:
MIME and FedLin evaluate each batch twice and pass over the data once more a round. There are two such loops:
one has torch's cross-entropy, which is what most people write, and one the students' own, which is cheaper
under ``vmap``. The script prints milliseconds a round (median, all ways in turn in one process), and the
ratios of each way to both loops.

    python scripts/bench/federated.py --peers 64
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import time
import warnings
from typing import Any

import torch
from local_steps import Net, fit
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAdam, FedAvg, FedLin, FedNova, FedProx, FedShuffle, Mime, Scaffold
from mmkd.functional.classification import cross_entropy
from mmkd.schedule import Schedule
from mmkd.topology import Star

BATCH, OWNED, RATE = 32, 256, 0.05


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of all peers."""
    return torch.optim.SGD(parameters, lr=RATE)


def bare(peers: int, rounds: int, steps: int, *, twice: bool, criterion: Any) -> list[float]:
    """Seconds of each round of a bare loop: local steps, and the mean of all weights."""
    models = [Net(10) for _ in range(peers)]
    weights, buffers = stack_module_state(models)
    weights = {name: w.detach() for name, w in weights.items()}
    template = copy.deepcopy(models[0])
    x, y = torch.randn(peers, OWNED, 32), torch.randint(10, (peers, OWNED))

    def loss(p: Any, b: Any, x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = criterion(functional_call(template, (p, b), (x,)), y)
        return value

    gradient = vmap(grad(loss))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        order = torch.stack([torch.randperm(OWNED) for _ in range(peers)])
        anchor = {name: w.clone() for name, w in weights.items()}
        if twice:
            for i in range(OWNED // BATCH):
                part = slice(i * BATCH, (i + 1) * BATCH)
                gradient(anchor, buffers, x[:, part], y[:, part])
        for step in range(steps):
            i = step % (OWNED // BATCH)
            rows = order[:, i * BATCH : (i + 1) * BATCH]
            batch = x.gather(1, rows[..., None].expand(-1, -1, 32)), y.gather(1, rows)
            g = gradient(weights, buffers, *batch)
            if twice:
                there = gradient(anchor, buffers, *batch)
                g = {name: leaf - there[name] for name, leaf in g.items()}
            for name, w in weights.items():
                w.sub_(g[name], alpha=RATE)
        weights = {n: w.mean(0, keepdim=True).expand_as(w).clone() for n, w in weights.items()}
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def ours(peers: int, rounds: int, steps: int, aggregation: Any) -> list[float]:
    """Seconds of each round in ``Trainer.fit``."""
    model = Cohort({"peers": Fleet(lambda n: Net(n, sgd), peers)}, 10, vectorize="always")
    schedule = Schedule(local_steps=steps, block=steps, rounds_per_epoch=rounds)
    return fit(model, DecentralizedCallback(None, aggregation, Star(), schedule))


def main() -> None:
    """Time all ways in turn, and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    size = (options.peers, options.rounds, options.steps)
    ways: dict[str, tuple[Any, bool]] = {
        "FedAvg": (FedAvg, False),
        "FedProx": (FedProx, False),
        "SCAFFOLD": (Scaffold, False),
        "FedNova": (FedNova, False),
        "FedShuffle": (FedShuffle, False),
        "FedAdam": (FedAdam, False),
        "MIME": (Mime, True),
        "FedLin": (FedLin, True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    criteria = {"torch's loss": nn.functional.cross_entropy, "our loss": cross_entropy}
    bases: dict[tuple[bool, str], list[float]] = {(t, name): [] for t in (False, True) for name in criteria}
    for _ in range(options.repeats):
        for (twice, name), found in bases.items():
            found.append(statistics.median(bare(*size, twice=twice, criterion=criteria[name])))
        for name, (make, _) in ways.items():
            times[name].append(statistics.median(ours(*size, make())))
    print(f"{options.peers} peers, {options.steps} local steps a round, {options.threads} thread(s), SGD")
    for (twice, criterion), found in bases.items():
        title = f"bare loop, {'two gradients a step, ' if twice else ''}{criterion}"
        print(f"{title:44} {1e3 * statistics.median(found):8.1f} ms a round")
    for name, (_, twice) in ways.items():
        own = statistics.median(times[name])
        ratios = [f"{own / statistics.median(bases[twice, criterion]):5.2f}" for criterion in criteria]
        print(f"{name:44} {1e3 * own:8.1f} ms a round   {' and'.join(ratios)} x bare")


if __name__ == "__main__":
    main()
