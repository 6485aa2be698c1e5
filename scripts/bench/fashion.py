"""Time a round on all of Fashion-MNIST: an epoch of every peer and FedAvg, and a plain loop that does it.

    python scripts/bench/fashion.py --peers 20 --threads 2

Peers own equal shares of the 54,000 samples that are not for validation, and read them once in batches of 32
with ``VisionStudent`` and Adam. The loop knows neither cohorts nor Lightning. The script prints seconds of
reading the files and of each way, which take turns, and the load of the machine in the minute before.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from functools import partial
from typing import Any

import torch
from local_steps import adam, fit

from datamodules.fashion_mnist import FOLDER, FashionMnist
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.partition import IID
from mmkd.federated import FedAvg
from mmkd.functional.random import keyed
from mmkd.schedule import Schedule
from mmkd.students import VisionStudent
from mmkd.topology import Star

BATCH = 32
"""Samples of a local step."""


def student(num_classes: int) -> VisionStudent:
    """What every peer trains, in the loop and in the cohort."""
    return VisionStudent(num_classes, optimizer=adam)


def plain(data: FashionMnist) -> None:
    """One pass of every peer, one after the other, and the mean of their weights."""
    with keyed(0):
        first = student(data.num_classes)
    trained = []
    for peer in data.peers:
        model = copy.deepcopy(first).train()
        optimizer = adam(model.parameters())
        samples: Any = data.held(peer, "train")
        for rows in torch.randperm(len(samples)).split(BATCH):
            if len(rows) < BATCH:
                continue  # as the cohort's loader leaves it out
            loss = torch.nn.functional.cross_entropy(model(samples.x[rows]), samples.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trained.append(dict(model.named_parameters()))
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            parameter.copy_(torch.stack([other[name] for other in trained]).mean(0))


def cohort(data: FashionMnist, vectorize: Any) -> None:
    """The same as a round of a cohort."""
    model = Cohort({"cameras": Fleet(student, len(data.peers))}, data.num_classes, vectorize=vectorize)
    schedule = Schedule(local_epochs=1, block=20)
    fit(model, DecentralizedCallback(None, FedAvg(), Star(), schedule), data)


def clocked(way: Any) -> str:
    """How long a call takes, and how much time of processors, which others change less."""
    start, spent = time.perf_counter(), time.process_time()
    way()
    wall, own = time.perf_counter() - start, time.process_time() - spent
    return f"{wall:8.1f} s {own:8.1f} s of processors   load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Time all ways in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", default=FOLDER)
    parser.add_argument("--peers", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = FashionMnist(
        folder=options.folder,
        public=0.0,
        partition=IID(),
        batch_size=BATCH,
        peers={f"cameras/{i}": "image" for i in range(options.peers)},
    )
    print(f"load {os.getloadavg()[0]:.1f}; {options.peers} peers, {options.threads} threads")
    print(f"{'files read and dealt':28}", clocked(lambda: [data.held(peer, "train") for peer in data.peers]))
    ways = {"plain loop": partial(plain, data)}
    ways |= {f"cohort, vectorize: {how}": partial(cohort, data, how) for how in ("auto", "always")}
    for _ in range(options.repeats):
        for name, way in ways.items():
            print(f"{name:28}", clocked(way), flush=True)


if __name__ == "__main__":
    main()
