"""What a device saves and loses that remembers what it was told, by how near samples must be to one another.

    python scripts/bench/remembering.py RUN --device cameras/1 --to cameras/0

Each of the device's test samples comes as it is and, later, a few times a little changed, as the same thing
is seen or said again; all in a shuffled order. The device asks about those of which it is less sure than
about half of its validation samples. Answers are the other's, whose student reads the same sample. Nothing
is sent: bytes are those of a question's numbers and of an answer's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from mmkd.augmentation.base import Augmentation
from mmkd.augmentation.images import Affine
from mmkd.augmentation.sounds import Warp
from mmkd.augmentation.texts import Typos
from mmkd.edge.graph import Graph
from mmkd.edge.remembering import RequestCache
from mmkd.edge.trained import Trained, trained
from mmkd.functional.random import generator, key
from mmkd.students.base import Classifier

AGAIN = 4
"""How often each sample comes again."""
NEAR = (1.0, 0.99, 0.95, 0.9, 0.8, 0.7)
"""Cosines from which on an answer serves."""
CHANGES: dict[str, Augmentation] = {
    "image": Affine(shift=0.05, rotate=5.0, scale=0.05),
    "audio": Warp(shift=0.03, speed=0.03),
    "text": Typos(swap=0.1, drop=0.0),
}
"""By which the same thing differs from time to time."""


def stream(run: Trained, device: str, modality: str) -> tuple[Tensor, Tensor]:
    """Samples in the order in which they come, and their labels."""
    reader = run.data.reader(device, "test")
    batch = reader.batch(torch.arange(len(reader)), 0)
    assert isinstance(batch.x, Tensor)
    assert batch.y is not None
    drawn = generator("again", device)
    parts = [batch.x]
    for turn in range(AGAIN):
        streams = torch.tensor([key("again", device, turn, i) for i in range(len(batch.x))])
        parts.append(CHANGES[modality](batch.x, streams))
    # What is seen again comes behind what it was: each has a place of its own after the first.
    first = torch.rand(len(batch.x), generator=drawn)
    when = [first, *(first + (1 - first) * torch.rand(len(first), generator=drawn) for _ in range(AGAIN))]
    order = torch.cat(when).argsort()
    return torch.cat(parts)[order], batch.y.repeat(AGAIN + 1)[order]


@torch.no_grad()
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--to", required=True)
    options, rest = parser.parse_known_args()
    run = trained(options.run, None, rest)
    modalities = run.cohort.roster[0]
    own, other = run.student(options.device), run.student(options.to)
    assert isinstance(own, Classifier)
    assert isinstance(other, Classifier)
    x, y = stream(run, options.device, modalities[options.device])
    known = run.data.reader(options.device, "val")
    sure = own(known.batch(torch.arange(len(known)), 0).x).softmax(-1).amax(1).quantile(0.5)
    mine, theirs, embedded = own(x).softmax(-1), other(x).softmax(-1), Graph(own).embedding((x,))
    asks = mine.amax(1) < sure
    one = x[0].numel() * x.element_size() + theirs[0].numel() * theirs.element_size()
    print(f"{options.device} asks {options.to} about {int(asks.sum())} of {len(x)} samples, {one} bytes each")
    print(
        f"{'near':>6} {'hits':>7} {'bytes saved':>12} {'right':>7} {'answers kept are right':>24} {'age':>6}"
    )
    for near in (None, *NEAR):
        cache = RequestCache(near or 1.0, seconds=1e9, entries=10_000)
        right = hits = kept_right = 0
        age = 0.0
        for place in range(len(x)):
            answer = mine[place]
            if bool(asks[place]):
                told = cache.find(embedded[place], float(place)) if near is not None else None
                if told is None:
                    answer = theirs[place]
                    cache.keep(embedded[place], answer, [options.to], float(place))
                else:
                    answer, hits, age = told.probabilities, hits + 1, age + told.age
                    kept_right += int(answer.argmax() == y[place])
            right += int(answer.argmax() == y[place])
        share = hits / max(1, int(asks.sum()))
        print(
            f"{'never' if near is None else near:>6} {share:7.1%} {hits * one:12,} {right / len(x):7.1%}"
            f" {kept_right / hits if hits else float('nan'):24.1%} {age / max(1, hits):6.0f}"
        )


if __name__ == "__main__":
    main()
