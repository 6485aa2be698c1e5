"""The same round in mmkd: a cohort, FedAvg through a hub, half of the peers drawn anew every round."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset
from workload import BATCH, PEERS, RATE, TAKING_PART, accuracy, net, report, samples

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.federated import Aggregation, FedAvg
from mmkd.participation import Sampled
from mmkd.schedule import Schedule
from mmkd.students import Classifier
from mmkd.topology import Star


class Student(Classifier):
    """The multilayer perceptron: its last layer is the classifier's head."""

    modalities = ("vector",)

    def __init__(self, num_classes: int, optimizer: str = "sgd") -> None:
        make = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
        super().__init__(num_classes, dim=64, optimizer=functools.partial(make, lr=RATE))
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU())

    def embed(self, x: Tensor) -> Tensor:
        """All but the head."""
        return self.net(x)


class Vectors(PeerDataModule):
    """The workload's samples."""

    num_classes, modalities = 10, ("vector",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._private = functools.cache(lambda number: Samples(*samples(number)))

    def private(self, peer: str, split: str) -> Dataset[Any]:
        """Of one peer."""
        return self._private(int(peer.partition("/")[2]))

    def public(self, split: str) -> Dataset[Any]:
        """None that anybody asks for."""
        return PublicSamples({"vector": torch.zeros(1, 64)})


class Rounds(Callback):
    """Tells when a round is over."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick

    def on_train_batch_end(self, *args: Any) -> None:
        """A block is a round."""
        self.tick()


def run(
    rounds: int,
    tick: Callable[[], None],
    compile: Any = "never",
    peers: int = PEERS,
    taking_part: int = TAKING_PART,
    aggregation: Aggregation | None = None,
    optimizer: str = "sgd",
) -> float:
    """Through ``Trainer.fit``."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    fleet = Fleet(functools.partial(Student, optimizer=optimizer), peers)
    cohort = Cohort({"peers": fleet}, 10, vectorize="always", compile=compile)
    coordinator = DecentralizedCallback(
        aggregation=aggregation,
        topology=Star(),
        schedule=Schedule(local_steps=5, block=5, rounds_per_epoch=rounds),
        participation=Sampled(taking_part / peers) if taking_part < peers else None,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[coordinator, Rounds(tick)],
    )
    trainer.fit(cohort, datamodule=Vectors(batch_size=BATCH))
    whole = net()
    student = cohort.student("peers/0")
    tensors = student.state_dict()
    for layer, name in ((0, "net.0"), (2, "main")):
        whole[layer].load_state_dict({part: tensors[f"{name}.{part}"] for part in ("weight", "bias")})
    return accuracy(whole)


if __name__ == "__main__":
    report(functools.partial(run, aggregation=FedAvg(among="all")), compile="never")
