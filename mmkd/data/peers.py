"""The base of every datamodule: makes Lightning's loaders of peers' data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Shaped
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from mmkd.data.base import PeerData, PeerModule
from mmkd.data.loading import PIECE, EvaluationLoader, LoneLoader, TrainLoader
from mmkd.students.base import Student
from mmkd.types import ConfigError, PeerName, Views

SPLITS = ("train", "val", "test")
"""The parts of a peer's own samples."""


class PeerDataModule(PeerData, LightningDataModule):
    """Data of many peers. A subclass lists its modalities and classes, and writes ``private`` and ``public``.

    Peers come from the cohort that is trained (``model.peers`` in a configuration), or from the
    ``peers`` argument where there is no cohort. Arguments are those of ``PeerData``.
    """

    def setup(self, stage: str) -> None:
        """Take the peers from the cohort that the trainer trains."""
        if isinstance(module := self._trained(), PeerModule):
            self.assign(*module.roster)
            self.own = list(module.names)
            self.labels = {split: module.labels(split) for split in SPLITS}
        if not self.peers:
            raise ConfigError(
                f"{type(self).__name__} has no peers: train a Cohort, or pass peers={{name: modality}}"
            )

    def _trained(self) -> Any:
        return self.trainer.lightning_module if self.trainer is not None else None

    def train_dataloader(self) -> TrainLoader:
        """Blocks of local steps for the cohort."""
        cohort = self._trained()
        if not isinstance(cohort, PeerModule):
            raise ConfigError("this datamodule feeds a Cohort; for one student use datamodule.only(peer)")
        seen = _batches_seen(self)
        return TrainLoader(self, cohort.timetable, cohort.together, cohort.draws_public, seen)

    def _evaluation(self, split: str, stage: str | None = None) -> EvaluationLoader:
        shared: dict[int, tuple[Dataset[Any], list[PeerName]]] = {}
        for peer in self.own:
            data = self.held(peer, split)
            shared.setdefault(id(data), (data, []))[1].append(peer)
        readers = [(self.read(data, peers[0], split), peers) for data, peers in shared.values()]
        loader = EvaluationLoader(readers, PIECE)
        if self.trainer is not None:
            filled = sum(len(reader) > 0 for reader, _ in readers)
            _check_limit(self.trainer, f"limit_{stage or split}_batches", filled, len(loader))
        return loader

    def val_dataloader(self) -> EvaluationLoader:
        """Validation samples of all peers."""
        return self._evaluation("val")

    def test_dataloader(self) -> EvaluationLoader:
        """Test samples of all peers."""
        return self._evaluation("test")

    def predict_dataloader(self) -> EvaluationLoader:
        """Test samples of all peers."""
        return self._evaluation("test", "predict")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device, but not to the CPU, where that takes longer than a small step."""
        return (
            batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def only(self, peer: PeerName) -> LightningDataModule:
        """A datamodule of that peer's batches alone, the same and in the same order as in a cohort."""
        if peer not in self.peers:
            raise ConfigError(f"no peer '{peer}'; there are {', '.join(self.peers)}")
        return _Only(self, peer)


class _Only(LightningDataModule):
    """One peer's private data, for a student that trains alone."""

    def __init__(self, data: PeerDataModule, peer: PeerName) -> None:
        super().__init__()
        self._data, self._peer = data, peer
        self.num_classes = data.num_classes

    def setup(self, stage: str) -> None:
        student = self.trainer.lightning_module if self.trainer is not None else None
        if isinstance(student, Student):
            self._data.labels = {split: {self._peer: student.learns_from()} for split in SPLITS}

    def label_counts(self) -> Shaped[Tensor, " classes"]:
        return self._data.label_counts(self._peer)

    def views(self) -> Iterator[Views]:
        return self._data.views(self._peer)

    def train_dataloader(self) -> LoneLoader:
        return LoneLoader(self._data, self._peer, "train", _batches_seen(self))

    def val_dataloader(self) -> LoneLoader:
        return LoneLoader(self._data, self._peer, "val")

    def test_dataloader(self) -> LoneLoader:
        return LoneLoader(self._data, self._peer, "test")


def _check_limit(trainer: Any, name: str, data_sets: int, batches: int) -> None:
    """Refuse a limit that leaves out a data set; ``fast_dev_run`` reads so many batches of each."""
    if trainer.fast_dev_run:
        setattr(trainer, name, int(trainer.fast_dev_run) * data_sets)
        return
    limit = getattr(trainer, name)
    read = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
    if 0 < read < data_sets:
        raise ConfigError(
            f"trainer.{name} is {limit}, and peers are evaluated on {data_sets} sets of samples, some of"
            f" which nobody would read; give at least {data_sets}, for a batch of each is read in turn, or 0"
        )


def _batches_seen(data: LightningDataModule) -> int:
    """How many batches the trainer has taken in all epochs so far, those before a resume included."""
    trainer = data.trainer
    return 0 if trainer is None else trainer.fit_loop.epoch_loop.total_batch_idx + 1
