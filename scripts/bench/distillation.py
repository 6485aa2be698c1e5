"""Time a step of distillation for many small peers, against a step without exchange.

Students have three auxiliary heads; the public batch is as large as the private one, and knowledge is
exchanged at every step. The script prints milliseconds a tick (median over blocks, all ways in turn in one
process), and ratios to a cohort whose peers exchange nothing. A tick that learns from a public batch as large
as the private one passes twice as many samples through every student, so 2 is the least ratio possible.

    python scripts/bench/distillation.py --peers 64
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from local_steps import Net, adam, fit, in_turn

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.knowledge import (
    EightBits,
    EveryTeacher,
    Knowledge,
    MeanProbability,
    MostConfident,
    MultiHeadDistillation,
    SharedLogits,
)
from mmkd.schedule import Schedule
from mmkd.topology import Complete, Ring, Star, Topology


class Heads(Net):
    """The small perceptron of ``local_steps.py`` with three auxiliary heads."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.aux = torch.nn.ModuleList(torch.nn.Linear(64, num_classes) for _ in range(3))


def ours(peers: int, ticks: int, block: int, knowledge: Knowledge | None, topology: Topology) -> list[float]:
    """Seconds per tick in ``Trainer.fit``."""
    model = Cohort({"peers": Fleet(Heads, peers)}, 10, vectorize="always")
    schedule = Schedule(local_steps=block, knowledge_every=1, block=block, rounds_per_epoch=ticks // block)
    callback = DecentralizedCallback(knowledge, None, topology, schedule)
    return [second / block for second in fit(model, callback)]


def plain(peers: int, ticks: int, block: int) -> list[float]:
    """Seconds per tick of a plain loop over peers: MHD over a ring, with the mean of the two neighbours."""
    students = [Heads(10) for _ in range(peers)]
    optimizers = [adam(student.parameters()) for student in students]
    x, y, public = torch.randn(peers, 256, 32), torch.randint(10, (peers, 256)), torch.randn(512, 32)
    seconds = []
    for _ in range(ticks // block):
        start = time.perf_counter()
        for _ in range(block):
            seen = public[torch.randint(512, (32,))]
            said = [student.predict(seen) for student in students]
            taught = [torch.stack([p.logits, *p.auxiliary[:-1]]).detach().softmax(-1) for p in said]
            for k, (student, optimizer) in enumerate(zip(students, optimizers, strict=True)):
                rows = torch.randint(256, (32,))
                loss = F.cross_entropy(student(x[k, rows]), y[k, rows])
                target = (taught[k - 1] + taught[(k + 1) % peers]) / 2
                log_p = said[k].auxiliary.log_softmax(-1)
                loss = loss + (torch.xlogy(target, target) - target * log_p).sum(-1).mean(1).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        seconds.append((time.perf_counter() - start) / block)
    return seconds[1:]


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
    mhd: Any = MultiHeadDistillation
    ways: dict[str, tuple[Any, Topology]] = {
        "no exchange": (lambda: None, Star()),
        "shared logits, hub": (SharedLogits, Star()),
        "MHD, most confident, ring": (lambda: mhd(teacher=MostConfident()), Ring()),
        "MHD, mean, ring": (lambda: mhd(teacher=MeanProbability()), Ring()),
        "MHD, most confident, complete": (lambda: mhd(teacher=MostConfident()), Complete()),
        "MHD, one random teacher, complete": (lambda: mhd(teachers=1), Complete()),
        "MHD, sum and embeddings, complete": (lambda: mhd(teacher=EveryTeacher(), nu_emb=1.0), Complete()),
        "MHD, mean, ring, 8 bits": (lambda: mhd(teacher=MeanProbability(), wire=EightBits()), Ring()),
    }
    size = (options.peers, options.ticks, options.block)
    runs: dict[str, Callable[[], list[float]]] = {
        name: partial(lambda make, topology: ours(*size, make(), topology), *way)
        for name, way in ways.items()
    }
    runs["a plain loop: MHD, mean, ring"] = lambda: plain(*size)
    medians = in_turn(runs, options.repeats)
    print(f"{options.peers} peers, 3 auxiliary heads, {options.threads} thread(s), batches of 32, Adam")
    for name, median in medians.items():
        ratio = median / medians["no exchange"]
        print(f"{name:36} {1e3 * median:8.2f} ms a tick   {ratio:5.2f} x no exchange")


if __name__ == "__main__":
    main()
