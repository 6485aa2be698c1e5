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
from workload import BATCH, PEERS, RATE, TAKING_PART, accuracy, report, samples

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.federated import FedAvg
from mmkd.participation import Sampled
from mmkd.schedule import Schedule
from mmkd.students import Classifier
from mmkd.topology import Star

LOCAL_STEPS = 5


class Student(Classifier):
    """The multilayer perceptron: its last layer is the classifier's head."""

    modalities = ("vector",)

    def __init__(self, num_classes: int, optimizer: str = "sgd", width: int = 64, heads: int = 0) -> None:
        make = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
        super().__init__(num_classes, dim=width, heads=heads, optimizer=functools.partial(make, lr=RATE))
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU())

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
        """Nobody's."""
        return PublicSamples({"vector": torch.randn(256, 64, generator=torch.Generator().manual_seed(1))})


class Rounds(Callback):
    """Tells when a round is over."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick

    def on_train_batch_end(self, *args: Any) -> None:
        """A block is a round."""
        self.tick()


def train(
    rounds: int,
    tick: Callable[[], None],
    peers: int,
    make: Callable[[int], Student] = Student,
    *,
    compile: Any = "record",
    knowledge_every: int | None = None,
    public_batch_size: int = 16,
    **method: Any,
) -> Cohort:
    """Through ``Trainer.fit``; ``method`` is what a ``DecentralizedCallback`` takes."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    schedule = Schedule(
        local_steps=LOCAL_STEPS, block=LOCAL_STEPS, rounds_per_epoch=rounds, knowledge_every=knowledge_every
    )
    cohort = Cohort({"peers": Fleet(make, peers)}, 10, vectorize="always", compile=compile)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[DecentralizedCallback(schedule=schedule, **method), Rounds(tick)],
    )
    trainer.fit(cohort, datamodule=Vectors(batch_size=BATCH, public_batch_size=public_batch_size))
    return cohort


def run(rounds: int, tick: Callable[[], None], compile: str) -> float:
    """The round that all simulators are timed on."""
    participation = Sampled(TAKING_PART / PEERS)
    method = {"aggregation": FedAvg(among="all"), "topology": Star(), "participation": participation}
    return accuracy(train(rounds, tick, PEERS, compile=compile, **method).student("peers/0").eval())


if __name__ == "__main__":
    report(run, compile="never")
