"""The round of ``workload.py`` in Flower's simulation, whose sending of usage data is switched off."""

from __future__ import annotations

import logging
import os

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from workload import BATCH, OWNED, PEERS, RATE, TAKING_PART, accuracy, net, report, samples

client, server = ClientApp(), ServerApp()
rounds_wanted, reached = 0, [0.0]
told: list[Callable[[], None]] = []
"""The function to call at the end of every round."""


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train one peer for its local steps, and answer with its weights."""
    model = net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    x, y = samples(int(context.node_config["partition-id"]))
    for rows in torch.randperm(OWNED).split(BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": OWNED})}
    return Message(content=RecordDict(content), reply_to=message)


class Timed(FedAvg):
    """FedAvg that calls a function at the end of every round."""

    def aggregate_train(self, *args: object, **kwargs: object) -> object:
        """Average the weights, and call the function."""
        found = super().aggregate_train(*args, **kwargs)
        told[0]()
        return found


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds, and keep the accuracy at the end."""
    strategy = Timed(fraction_train=TAKING_PART / PEERS, fraction_evaluate=0.0, min_available_nodes=PEERS)
    model = net()
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=rounds_wanted
    )
    model.load_state_dict(result.arrays.to_torch_state_dict())
    reached[0] = accuracy(model)


def run(rounds: int, tick: Callable[[], None]) -> float:
    """Train with one core a peer, and as many peers at once as there are cores."""
    global rounds_wanted
    rounds_wanted, told[:] = rounds, [tick]
    logging.disable(logging.WARNING)
    resources = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"include_dashboard": False},
    }
    run_simulation(server, client, PEERS, backend_config=resources)
    return reached[0]


if __name__ == "__main__":
    report(run)
