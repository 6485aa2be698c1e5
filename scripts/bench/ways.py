"""Time a step of several students side by side and one after the other, and say what ``auto`` would choose.

For each student and number of peers the script prints the operations of its convolutions for each call of
torch, by which ``mmkd/cohort/groups/choice.py`` decides, and the least times of a step of all peers, in turn.

    python scripts/bench/ways.py --peers 4 16 64
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from convolutions import Net
from jaxtyping import Float
from torch import Tensor, nn

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.choice import BOUND, convolutions
from mmkd.cohort.groups.sequential import SequentialGroup, apart
from mmkd.cohort.groups.stacked import StackedGroup
from mmkd.students import AudioStudent, Classifier, Student, TextStudent, VisionStudent
from mmkd.types import Batches

BATCH, CLASSES = 16, 10


class Perceptron(Classifier):
    """Linear layers of one width."""

    modalities = ("vector",)

    def __init__(self, num_classes: int, width: int, depth: int) -> None:
        super().__init__(num_classes, dim=width)
        layers = [nn.Linear(64, width), *(nn.Linear(width, width) for _ in range(depth - 1))]
        self.net = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))

    def embed(self, x: Float[Tensor, "batch 64"]) -> Float[Tensor, "batch width"]:
        """The output of the last layer."""
        embedding: Tensor = self.net(x)
        return embedding


class Convolutions(Classifier):
    """Two strided convolutions, the second twice as wide."""

    modalities = ("image",)

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(num_classes, dim=2 * width)
        layers = [nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def embed(self, x: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, "batch dim"]:
        """The mean over places."""
        embedding: Tensor = self.net(x)
        return embedding


def vision(name: str) -> Callable[[], Student]:
    """A backbone of timm on three channels."""
    return lambda: VisionStudent(CLASSES, backbone=name, in_chans=3)


Case = tuple[Callable[[], Student], Callable[[int], Tensor]]
CASES: dict[str, Case] = {
    "perceptron, 64": (lambda: Perceptron(CLASSES, 64, 1), lambda n: torch.randn(n, BATCH, 64)),
    "perceptron, 3 x 512": (lambda: Perceptron(CLASSES, 512, 3), lambda n: torch.randn(n, BATCH, 64)),
    "convolutions, 16": (lambda: Convolutions(CLASSES, 16), lambda n: torch.randn(n, BATCH, 1, 28, 28)),
    "convolutions, 64": (lambda: Convolutions(CLASSES, 64), lambda n: torch.randn(n, BATCH, 1, 28, 28)),
    "residual, 8": (lambda: Net(CLASSES, 8), lambda n: torch.randn(n, BATCH, 3, 32, 32)),
    "VisionStudent": (lambda: VisionStudent(CLASSES), lambda n: torch.randn(n, BATCH, 1, 28, 28)),
    "mobilenetv3_small_050": (vision("mobilenetv3_small_050"), lambda n: torch.randn(n, BATCH, 3, 32, 32)),
    "resnet10t": (vision("resnet10t"), lambda n: torch.randn(n, BATCH, 3, 32, 32)),
    "convnext_atto": (vision("convnext_atto"), lambda n: torch.randn(n, BATCH, 3, 32, 32)),
    "AudioStudent": (lambda: AudioStudent(CLASSES), lambda n: torch.randn(n, BATCH, 8000)),
    "TextStudent": (lambda: TextStudent(CLASSES), lambda n: torch.randint(1, 90, (n, BATCH, 24))),
}


def batches(x: Tensor) -> Batches:
    """A batch of random labels for every peer."""
    names = [f"peers/{i}" for i in range(len(x))]
    y, ids = torch.randint(CLASSES, x.shape[:2]), torch.arange(BATCH).expand(len(x), BATCH)
    return Batches(names, x, y, ids, list(range(len(x))))


def least(groups: Sequence[Group], read: Batches, seconds: float) -> list[float]:
    """The least time of a step of each group, in turn for so many seconds."""
    times: list[list[float]] = [[] for _ in groups]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 4:
        for group, own in zip(groups, times, strict=True):
            start = time.perf_counter()
            group.differentiate(read, None, torch.Tensor.backward)
            group.advance(range(len(group.names)))
            own.append(time.perf_counter() - start)
    return [min(own[1:]) for own in times]


def main() -> None:
    """Print a line for each student and number of peers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.cases:
        make, samples = CASES[name]
        found = convolutions(make(), next(apart(batches(samples(1)))))
        for count in options.peers:
            read = batches(samples(count))
            students: list[Any] = [make() for _ in read.peers]
            groups: list[Group] = [
                StackedGroup(read.peers, read.peers, iter(students)),
                SequentialGroup(read.peers, read.peers, students),
            ]
            for group in groups:
                group.build_optimizers([1.0] * count)
                group.train()
            side, loop = least(groups, read, options.seconds)
            chosen = "side by side" if found < BOUND else "one after the other"
            print(
                f"{name:24} {count:4} peers  {found / 1e6:6.2f} M a call  side by side {1e3 * side:9.2f} ms"
                f"  loop {1e3 * loop:9.2f} ms  {loop / side:6.2f}  auto: {chosen}",
                flush=True,
            )


if __name__ == "__main__":
    main()
