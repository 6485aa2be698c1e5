"""Small data and students for tests: three Gaussian classes that two modalities see alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.peers import PeerDataModule
from mmkd.data.samples import PublicSamples, Samples
from mmkd.schedule import Schedule
from mmkd.students.base import Classifier

CLASSES, FEATURES = 3, 8


class Eye(Classifier):
    """A student with every difficulty: normalisation statistics, a counter, random layers."""

    modalities = ("image",)

    def __init__(self, num_classes: int, *, dim: int = 16, drop: float = 0.1, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=dim, **kwargs)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.net = nn.Sequential(nn.Linear(FEATURES, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Dropout(drop))

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x)


class Ear(Eye):
    modalities = ("audio",)

    def __init__(self, num_classes: int, *, dim: int = 12, drop: float = 0.1, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=dim, drop=drop, **kwargs)


class Nose(Ear):
    modalities = ("smell",)


class TinyData(PeerDataModule):
    num_classes = CLASSES
    modalities = ("image", "audio")
    dtype = torch.float32
    samples = 500

    def setup(self, stage: str) -> None:
        super().setup(stage)
        stream = torch.Generator().manual_seed(self.seed)
        centres = 1.5 * torch.randn(CLASSES, FEATURES, generator=stream, dtype=torch.float64)
        y = torch.randint(CLASSES, (self.samples,), generator=stream)
        noise = torch.randn(self.samples, FEATURES, generator=stream, dtype=torch.float64)
        x = (centres[y] + noise).to(self.dtype)
        self.pool, self.held_out = Samples(x[:300], y[:300]), Samples(x[300:400], y[300:400])
        self.public_x, self.public_y = x[400:], y[400:]

    def private(self, peer: str, split: str) -> Dataset[Any]:
        if split != "train":
            return self.held_out
        same = self.of(self.peers[peer])
        # Unequal on purpose: peer i of n owns a share in proportion to i + 1.
        shares = torch.arange(1, len(same) + 1)
        bounds = [0, *(shares.cumsum(0) * 300 // shares.sum()).tolist()]
        i = same.index(peer)
        return self.pool.subset(range(bounds[i], bounds[i + 1]))

    def public(self, split: str) -> Dataset[Any]:
        return PublicSamples({"image": self.public_x, "audio": self.public_x})


class TinyDataDouble(TinyData):
    dtype = torch.float64


def fleets(eyes: int = 3, ears: int = 2, **student: Any) -> dict[str, Fleet]:
    return {
        "cameras": Fleet(lambda n: Eye(n, **student), eyes),
        "microphones": Fleet(lambda n: Ear(n, **student), ears),
    }


def sgd(rate: float, **kwargs: Any) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, **kwargs)


def trainer(*callbacks: Callback, **kwargs: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 3,
    }
    return Trainer(callbacks=list(callbacks), **{**defaults, **kwargs})


def schedule(**kwargs: Any) -> Schedule:
    """Seven local steps a round, in blocks of three: neither divides the other."""
    return Schedule(**{"local_steps": 7, "rounds_per_epoch": 2, "block": 3, **kwargs})


def fit(
    cohort: Cohort, callback: DecentralizedCallback | None = None, data: TinyData | None = None, **kwargs: Any
) -> Trainer:
    """Train a cohort the public way."""
    ckpt_path, extra = kwargs.pop("ckpt_path", None), kwargs.pop("extra", ())
    run = trainer(*([callback] if callback is not None else []), *extra, **kwargs)
    run.fit(cohort, datamodule=data or TinyData(batch_size=16), ckpt_path=ckpt_path)
    return run


class Save(Callback):
    """Saves what a power cut after ``blocks`` blocks would leave, and lets the run go on."""

    def __init__(self, path: Path, blocks: int) -> None:
        self.path, self.blocks = path, blocks

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.blocks -= 1
        if self.blocks == 0:
            trainer.save_checkpoint(self.path)


class Kill(Callback):
    """Ends the run as a power cut would: by an exception after ``blocks`` blocks."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.blocks -= 1
        if self.blocks == 0:
            raise KeyboardInterrupt


def run(
    knowledge: Any, aggregation: Any, topology: Any, **kwargs: Any
) -> tuple[Cohort, DecentralizedCallback]:
    """A fit of the tiny fleets under a coordinator, for one epoch."""
    cohort = Cohort(fleets(), CLASSES, vectorize=kwargs.pop("vectorize", "never"))
    callback = DecentralizedCallback(
        knowledge,
        aggregation,
        topology,
        schedule(**kwargs.pop("schedule", {})),
        kwargs.pop("transport", None),
    )
    fit(cohort, callback, kwargs.pop("data", None), max_epochs=1)
    return cohort, callback


def adam_steps(cohort: Cohort, name: str) -> set[int]:
    """What Adam counts of a peer's parameters, whichever way it trains; nothing before the first step."""
    group, row = cohort.axis.locate(name)
    return {int(state["step"]) for state in group.optimizer_state(row)["state"].values()}
