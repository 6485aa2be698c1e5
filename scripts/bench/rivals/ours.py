"""The round of ``workload.py`` in mmkd: a cohort and FedAvg through a hub."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
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
    """The multilayer perceptron of the workload, whose last layer is the head."""

    modalities = ("vector",)

    def __init__(self, num_classes: int, optimizer: str = "sgd", width: int = 64, heads: int = 0) -> None:
        make = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
        super().__init__(num_classes, dim=width, heads=heads, optimizer=functools.partial(make, lr=RATE))
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU())

    def embed(self, x: Float[Tensor, "batch 64"]) -> Float[Tensor, "batch width"]:
        """The output of the hidden layer."""
        hidden: Tensor = self.net(x)
        return hidden


class Vectors(PeerDataModule):
    """The samples of the workload."""

    num_classes, modalities = 10, ("vector",)

    def private(self, peer: str, split: str) -> Dataset[Any]:
        """The samples of one peer, whatever the split."""
        return Samples(*samples(int(peer.partition("/")[2])))

    def public(self, split: str) -> Dataset[Any]:
        """Random samples, for ways that distil."""
        return PublicSamples({"vector": torch.randn(256, 64, generator=torch.Generator().manual_seed(1))})


class Rounds(Callback):
    """Calls a function at the end of every round."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick

    def on_train_batch_end(self, *args: Any) -> None:
        """Call the function after a block, which is a round."""
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
    """Train peers in ``Trainer.fit``.

    Args:
        rounds: number of rounds.
        tick: function to call at the end of each round.
        peers: number of peers.
        make: recipe of a student.
        compile: argument of ``Cohort``.
        knowledge_every: argument of ``Schedule``.
        public_batch_size: public samples of an exchange of knowledge.
        **method: arguments of ``DecentralizedCallback``.
    """
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
    """Train with FedAvg, with half of the peers drawn anew every round."""
    participation = Sampled(TAKING_PART / PEERS)
    method: dict[str, Any] = {
        "aggregation": FedAvg(among="all"),
        "topology": Star(),
        "participation": participation,
    }
    return accuracy(train(rounds, tick, PEERS, compile=compile, **method).student("peers/0").eval())


if __name__ == "__main__":
    report(run, compile="never")
