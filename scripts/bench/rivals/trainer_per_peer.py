"""The round of ``workload.py`` with a fresh Lightning Trainer for every peer, as tutorials have it."""

from __future__ import annotations

import copy
import logging
import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from workload import BATCH, PEERS, RATE, TAKING_PART, accuracy, net, report, samples


class Model(LightningModule):
    """The model of a peer as a ``LightningModule``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def training_step(self, batch: list[Tensor], i: int) -> Tensor:
        """The loss of a batch."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """The optimizer of a peer."""
        return torch.optim.SGD(self.parameters(), lr=RATE)


def run(rounds: int, tick: Callable[[], None]) -> float:
    """Train one peer after the other, with everything optional of the Trainer switched off."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    loaders = [
        DataLoader(TensorDataset(*samples(peer)), batch_size=BATCH, shuffle=True) for peer in range(PEERS)
    ]
    server = net()
    for _ in range(rounds):
        total = {name: torch.zeros_like(tensor) for name, tensor in server.state_dict().items()}
        for peer in random.sample(range(PEERS), TAKING_PART):
            model = Model()
            model.net.load_state_dict(server.state_dict())
            trainer = Trainer(
                accelerator="cpu",
                max_epochs=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(model, loaders[peer])
            for name, tensor in model.net.state_dict().items():
                total[name] += tensor / TAKING_PART
        server.load_state_dict(copy.deepcopy(total))
        tick()
    return accuracy(server)


if __name__ == "__main__":
    report(run)
