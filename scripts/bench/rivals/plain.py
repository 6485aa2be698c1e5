"""The round of ``workload.py`` in a plain loop over the peers."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import torch
from torch import nn
from workload import BATCH, OWNED, PEERS, RATE, TAKING_PART, accuracy, net, report, samples


def run(rounds: int, tick: Callable[[], None]) -> float:
    """Train one peer after the other."""
    data = [samples(peer) for peer in range(PEERS)]
    server, worker = net(), net()
    for _ in range(rounds):
        total = {name: torch.zeros_like(tensor) for name, tensor in server.state_dict().items()}
        for peer in random.sample(range(PEERS), TAKING_PART):
            worker.load_state_dict(server.state_dict())
            optimizer = torch.optim.SGD(worker.parameters(), lr=RATE)
            x, y = data[peer]
            for rows in torch.randperm(OWNED).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(worker(x[rows]), y[rows]).backward()
                optimizer.step()
            for name, tensor in worker.state_dict().items():
                total[name] += tensor / TAKING_PART
        server.load_state_dict(copy.deepcopy(total))
        tick()
    return accuracy(server)


if __name__ == "__main__":
    report(run)
