"""The round of ``workload.py`` in a vectorised loop with no framework around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from workload import BATCH, OWNED, PEERS, RATE, TAKING_PART, accuracy, net, report, samples


def run(rounds: int, tick: Callable[[], None]) -> float:
    """Train in vectorised steps of all peers that take part."""
    data = [samples(peer) for peer in range(PEERS)]
    xs, ys = torch.stack([x for x, _ in data]), torch.stack([y for _, y in data])
    model = net()
    server = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: Any, x: Tensor, y: Tensor) -> Tensor:
        scores = functional_call(model, p, (x,))
        return torch.logsumexp(scores, -1).sub(scores.gather(-1, y[:, None])[:, 0]).mean()

    step = vmap(grad(loss))
    for _ in range(rounds):
        here = torch.randperm(PEERS)[:TAKING_PART]
        x, y = xs[here], ys[here]
        order = torch.rand(TAKING_PART, OWNED).argsort(1)
        weights = {name: p.expand(TAKING_PART, *p.shape).clone() for name, p in server.items()}
        for rows in order.split(BATCH, dim=1):
            batch = x.gather(1, rows[..., None].expand(-1, -1, 64)), y.gather(1, rows)
            for name, g in step(weights, *batch).items():
                weights[name].sub_(g, alpha=RATE)
        server = {name: w.mean(0) for name, w in weights.items()}
        tick()
    nn.utils.vector_to_parameters(torch.cat([p.flatten() for p in server.values()]), model.parameters())
    return accuracy(model)


if __name__ == "__main__":
    report(run)
