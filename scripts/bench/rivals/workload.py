"""The federated round that all simulators are timed on; this file needs torch and nothing else.

One hundred peers of fifty samples each; every round fifty of them, drawn anew, take five local steps of batch
ten with plain SGD on a 64-64-10 multilayer perceptron, and their weights are averaged.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

PEERS, OWNED, TAKING_PART, BATCH, RATE = 100, 50, 50, 10, 0.1


def net() -> nn.Sequential:
    """The model of every peer."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def samples(peer: int) -> tuple[Tensor, Tensor]:
    """Private samples of a peer, with labels of a linear model that all peers share."""
    stream = torch.Generator().manual_seed(peer)
    x = torch.randn(OWNED, 64, generator=stream)
    teacher = torch.randn(64, 10, generator=torch.Generator().manual_seed(12345))
    return x, (x @ teacher).argmax(1)


def accuracy(model: nn.Module) -> float:
    """Accuracy of the averaged model on samples that nobody owns, by which simulators are compared."""
    stream = torch.Generator().manual_seed(999_999)
    x = torch.randn(2000, 64, generator=stream)
    teacher = torch.randn(64, 10, generator=torch.Generator().manual_seed(12345))
    with torch.no_grad():
        return float(((model(x).argmax(1)) == (x @ teacher).argmax(1)).double().mean())


def report(run: Callable[..., float], **more: str) -> None:
    """Run as many rounds as the command line says; print the seconds of each as JSON.

    Args:
        run: a function of the number of rounds and of a function to call after each; returns the accuracy.
        **more: further arguments of ``run`` that the command line may set, with their defaults.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    for name, value in more.items():
        parser.add_argument(f"--{name}", default=value)
    options = vars(parser.parse_args())
    rounds = options.pop("rounds")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    start = time.perf_counter()
    ends: list[float] = []
    reached = run(rounds, lambda: ends.append(time.perf_counter()), **options)
    seconds = [b - a for a, b in itertools.pairwise(ends)]
    print(json.dumps({"seconds": seconds, "start": ends[0] - start, "accuracy": reached}), flush=True)
