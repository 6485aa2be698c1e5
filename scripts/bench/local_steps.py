"""Time a local step of many small peers: a bare vectorised loop, and a cohort in its several ways.

The script prints milliseconds per tick (median over rounds, all ways in turn in one process) and ratios to
the bare loop, which does the same mathematics with no framework around it.

    python scripts/bench/local_steps.py --peers 64
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.data import Dataset

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.federated import FedAvg
from mmkd.knowledge import SharedLogits
from mmkd.schedule import Schedule
from mmkd.students import Classifier
from mmkd.topology import Star


def adam(parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of all peers, in the bare loop and in the cohort."""
    return torch.optim.Adam(parameters, lr=2e-3)


class Net(Classifier):
    """A small multilayer perceptron."""

    modalities = ("vector",)

    def __init__(self, num_classes: int, optimizer: Any = adam) -> None:
        super().__init__(num_classes, dim=64, optimizer=optimizer)
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())

    def embed(self, x: Float[Tensor, "batch 32"]) -> Float[Tensor, "batch 64"]:
        """The output of the encoder."""
        embedding: Tensor = self.net(x)
        return embedding


class Vectors(PeerDataModule):
    """Random vectors, of which every peer owns the same number."""

    num_classes = 10
    modalities = ("vector",)

    def private(self, peer: str, split: str) -> Dataset[Any]:
        """Random vectors and labels of one peer."""
        stream = torch.Generator().manual_seed(list(self.peers).index(peer))
        y = torch.randint(10, (256,), generator=stream)
        return Samples(torch.randn(256, 32, generator=stream), y)

    def public(self, split: str) -> Dataset[Any]:
        """Random vectors that all peers see."""
        return PublicSamples({"vector": torch.randn(512, 32, generator=torch.Generator().manual_seed(0))})


class Clock(Callback):
    """Measures the seconds of every block."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        """Start the clock at the first block."""
        if not self.seconds:
            self.last = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        """Add the seconds since the block before, loading and Lightning's own work included."""
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


def bare(peers: int, ticks: int, block: int) -> list[float]:
    """Seconds per tick of a loop that a person would write for this one case."""
    models = [Net(10) for _ in range(peers)]
    parameters, buffers = stack_module_state(models)
    template = copy.deepcopy(models[0])
    leaves = [p.requires_grad_() for p in parameters.values()]
    optimizer = torch.optim.Adam(leaves, lr=2e-3)
    x, y = torch.randn(peers, 256, 32), torch.randint(10, (peers, 256))

    def loss(p: Any, b: Any, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(template, (p, b), (x,)), y)

    step = vmap(grad(loss))
    seconds = []
    for _ in range(ticks // block):
        start = time.perf_counter()
        for _ in range(block):
            rows = torch.stack([torch.randperm(256)[:32] for _ in range(peers)])
            batch = x.gather(1, rows[..., None].expand(-1, -1, 32)), y.gather(1, rows)
            gradients = step(parameters, buffers, *batch)
            for name, p in parameters.items():
                p.grad = gradients[name]
            optimizer.step()
        seconds.append((time.perf_counter() - start) / block)
    return seconds


def cohort(
    peers: int, ticks: int, block: int, vectorize: Any, knowledge: Any, aggregation: Any
) -> list[float]:
    """Seconds per tick in ``Trainer.fit``."""
    model = Cohort({"peers": Fleet(Net, peers)}, 10, vectorize=vectorize)
    schedule = Schedule(local_steps=block, knowledge_every=1, block=block, rounds_per_epoch=ticks // block)
    callback = DecentralizedCallback(knowledge, aggregation, Star(), schedule)
    return [second / block for second in fit(model, callback)]


def fit(model: Cohort, callback: DecentralizedCallback, data: PeerDataModule | None = None) -> list[float]:
    """Seconds of every block but the first in ``Trainer.fit``."""
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback, clock],
    )
    trainer.fit(model, datamodule=data or Vectors(batch_size=32))
    return clock.seconds[1:]


def in_turn(ways: Mapping[str, Callable[[], list[float]]], repeats: int) -> dict[str, float]:
    """Median seconds of each way; all ways run in turn, several times over, and print nothing."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].append(statistics.median(way()))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    """Time all ways in turn, and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=64)
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument("--block", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = (options.peers, options.ticks, options.block)
    ways = {
        "bare vectorised loop": lambda: bare(*size),
        "cohort, vectorised": lambda: cohort(*size, "always", None, None),
        "cohort, vectorised, FedAvg a block": lambda: cohort(*size, "always", None, FedAvg()),
        "cohort, vectorised, logits a step": lambda: cohort(*size, "always", SharedLogits(), None),
        "cohort, one after the other": lambda: cohort(*size, "never", None, None),
    }
    medians = in_turn(ways, options.repeats)
    print(f"{options.peers} peers, {options.threads} thread(s), batch 32, Adam")
    for name, median in medians.items():
        ratio = median / medians["bare vectorised loop"]
        print(f"{name:36} {1e3 * median:8.2f} ms a tick   {ratio:5.2f} x bare")


if __name__ == "__main__":
    main()
