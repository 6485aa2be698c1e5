"""Time a local step of small convolutional networks: a cohort in its several ways, and a plain loop.

The networks are residual with group normalisation; images are 32 x 32 x 3, batches 16, and the optimizer is
SGD with momentum. The script prints milliseconds of a step of all peers (median over blocks, all ways in turn
in one process), and how many times as fast as the plain loop that is.

    python scripts/bench/convolutions.py --peers 64
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from local_steps import fit, in_turn
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.schedule import Schedule
from mmkd.students import Classifier

BATCH, OWNED = 16, 64


class Residual(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(4, after) for _ in range(2))
        self.around = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else nn.Identity()

    def forward(self, x: Float[Tensor, "batch before h w"]) -> Float[Tensor, "batch after h2 w2"]:
        """The block's output, of half the height and width if its stride is 2."""
        y = self.norms[1](self.two(F.relu(self.norms[0](self.one(x)))))
        return F.relu(y + self.around(x))


class Net(Classifier):
    """Three stages of residual blocks, each twice as wide and half as large as the one before."""

    modalities = ("image",)

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__(
            num_classes, dim=4 * width, optimizer=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)
        )
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1),
            Residual(width, width, 1),
            Residual(width, 2 * width, 2),
            Residual(2 * width, 4 * width, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def embed(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        """The mean over places of the last stage."""
        embedding: Tensor = self.net(x)
        return embedding


class Images(PeerDataModule):
    """Images of noise, of which every peer owns the same number."""

    num_classes, modalities = 10, ("image",)

    def private(self, peer: str, split: str) -> Dataset[Any]:
        """Images and random labels of one peer."""
        stream = torch.Generator().manual_seed(int(peer.partition("/")[2]))
        y = torch.randint(10, (OWNED,), generator=stream)
        return Samples(torch.randn(OWNED, 3, 32, 32, generator=stream), y)

    def public(self, split: str) -> Dataset[Any]:
        """One blank image, for nobody distils here."""
        return PublicSamples({"image": torch.zeros(1, 3, 32, 32)})


def cohort(peers: int, steps: int, width: int, **how: Any) -> list[float]:
    """Seconds of a step in ``Trainer.fit``."""
    model = Cohort({"peers": Fleet(lambda n: Net(n, width), peers)}, 10, **how)
    schedule = Schedule(local_steps=2, block=2, rounds_per_epoch=steps // 2)
    data = Images(batch_size=BATCH)
    return [seconds / 2 for seconds in fit(model, DecentralizedCallback(schedule=schedule), data)]


def plain(peers: int, steps: int, width: int) -> list[float]:
    """Seconds of a step of a plain loop over peers."""
    students = [Net(10, width) for _ in range(peers)]
    optimizers = [torch.optim.SGD(s.parameters(), lr=0.01, momentum=0.9) for s in students]
    x, y = torch.randn(peers, OWNED, 3, 32, 32), torch.randint(10, (peers, OWNED))
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        for k, (student, optimizer) in enumerate(zip(students, optimizers, strict=True)):
            rows = torch.randint(OWNED, (BATCH,))
            optimizer.zero_grad()
            F.cross_entropy(student(x[k, rows]), y[k, rows]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    """Time all ways in turn, and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=64)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = (options.peers, options.steps, options.width)
    ways = {
        "a plain loop": lambda: plain(*size),
        "cohort, one after the other": lambda: cohort(*size, vectorize="never"),
        "cohort, vectorised": lambda: cohort(*size, vectorize="always"),
        "cohort, vectorised, recorded": lambda: cohort(*size, vectorize="always", compile="record"),
        "cohort, vectorised, compiled": lambda: cohort(*size, vectorize="always", compile="inductor"),
    }
    medians = in_turn(ways, options.repeats)
    print(f"{options.peers} peers, width {options.width}, {options.threads} thread(s), batches of {BATCH}")
    for name, median in medians.items():
        speed = medians["a plain loop"] / median
        print(f"{name:32} {1e3 * median:8.1f} ms a step   {speed:5.2f} times the loop")


if __name__ == "__main__":
    main()
