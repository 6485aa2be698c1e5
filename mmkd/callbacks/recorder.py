"""A callback that writes what a report needs: the curve of a run, its ledger and its result."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmkd.callbacks.decentralized import DecentralizedCallback
from mmkd.callbacks.predictions import PredictionTable
from mmkd.cohort.cohort import Cohort
from mmkd.cost.footprint import footprint
from mmkd.files import replacing
from mmkd.tables import write_rows
from mmkd.types import PeerName

if TYPE_CHECKING:
    from mmkd.data.peers import PeerDataModule

COLUMNS = ("round", "step", "bytes_per_peer", "flops_per_peer", "split", "peer", "modality")
"""First columns of ``curve.csv``; columns of metrics follow."""


PREDICTIONS = "predictions.csv"
"""File of what peers predict."""


class Recorder(Callback):
    """Writes ``curve.csv``, ``ledger.csv`` and, once tested, ``outcome.json`` into a folder.

    After ``predict`` there is ``predictions.csv``, a row for each peer and sample; of detectors a row for
    each detection. Each file is replaced at once, so a run that is killed leaves none half-written.

    Args:
        folder: where to write; the trainer's log folder if left out.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else None
        self._curve: list[dict[str, Any]] = []
        self._validated: dict[PeerName, dict[str, float]] = {}
        self._seconds = 0.0
        self._since = time.monotonic()
        self._table: PredictionTable | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the folder."""
        if self.folder is None:
            self.folder = Path(trainer.log_dir or trainer.default_root_dir)
        self._since = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point to every peer's curve."""
        if trainer.sanity_checking or not isinstance(pl_module, Cohort):
            return
        self._validated = pl_module.metrics
        if trainer.state.fn == "fit":
            self._add(trainer, pl_module, "val")
            self._write_curve(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the ledger."""
        self._seconds += time.monotonic() - self._since
        with self._replacing("ledger.csv") as part:
            coordinator(trainer).ledger.write(part)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the result of the run."""
        if not isinstance(pl_module, Cohort):
            return
        self._add(trainer, pl_module, "test")
        self._write_curve(pl_module)
        self.write("outcome.json", json.dumps(self._result(trainer, pl_module), indent=1))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a table of predictions: rows go to the disk as they come, for many peers have very many."""
        if isinstance(pl_module, Cohort):
            assert self.folder is not None
            self._table = PredictionTable(self.folder / PREDICTIONS, pl_module.gives)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add what all peers that have read a batch say of it."""
        if self._table is not None:
            self._table.add(outputs, batch)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the table in its place."""
        if self._table is not None:
            self._table.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A table that is not finished is none."""
        if self._table is not None:
            self._table.close(exception)

    def _result(self, trainer: Trainer, cohort: Cohort) -> dict[str, Any]:
        callback, data = coordinator(trainer), trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        modalities, _ = cohort.roster
        peers = {}
        for name in cohort.names:
            student, counts = cohort.student(name), data.label_counts(name)
            peers[name] = {
                "modality": modalities[name],
                "architecture": type(student).__name__,
                "parameters": sum(p.numel() for p in student.parameters()),
                "private_samples": data.samples_of(name),
                "label_counts": counts.tolist(),
                "flops": callback.ledger.flops.get(name, 0.0),
            }
        framing = callback.ledger.total("framing")
        return {
            "seconds": round(self._seconds, 2),
            "peers": peers,
            "cost": self._costs(cohort, data),
            "metric": cohort.scores.main,
            "vectorized": {fleet: choice._asdict() for fleet, choice in cohort.choices.items()},
            "test": cohort.metrics,
            "val": self._validated,
            "ledger": {
                "bytes_per_peer": callback.ledger.bytes_per_peer(),
                "framing_per_peer": framing / len(cohort.names),
                "by_kind": callback.ledger.by_kind(),
                "hub_flops": dict(callback.ledger.hub_flops),
                "rounds": cohort.timetable.round_of(trainer.global_step),
            },
            "topology": {
                "name": type(callback.method.topology).__name__,
                "hub": callback.hub,
                "edges": [list(edge) for edge in callback.edges(cohort.names)],
            },
        }

    @torch.inference_mode(False)
    def _costs(self, cohort: Cohort, data: PeerDataModule) -> dict[str, Any]:
        """Time and memory of one test sample for a student of each fleet that has test samples."""
        costs = {}
        for fleet, group in zip(cohort.fleets, cohort.peers.groups, strict=True):
            readers = (data.reader(name, "test") for name in group.names)
            reader = next((reader for reader in readers if len(reader)), None)
            if reader is None:
                continue
            sample = reader.batch(torch.arange(1), 0)
            costs[fleet] = footprint(group.student(0), cohort.peers.to_device(sample).x)._asdict()
        return costs

    def _add(self, trainer: Trainer, cohort: Cohort, split: str) -> None:
        ledger, (modalities, _) = coordinator(trainer).ledger, cohort.roster
        step = trainer.global_step
        when = (
            cohort.timetable.round_of(step),
            step,
            ledger.bytes_per_peer(),
            ledger.flops_per_peer(),
            split,
        )
        for name, metrics in cohort.metrics.items():
            row = dict(zip(COLUMNS, (*when, name, modalities[name]), strict=True))
            self._curve.append(row | {metric: metrics[metric] for metric in kept(cohort)})

    def _write_curve(self, cohort: Cohort) -> None:
        with self._replacing("curve.csv") as part, part.open("w", newline="") as file:
            head = (*COLUMNS, *kept(cohort))
            write_rows(file, [head, *([row[name] for name in head] for row in self._curve)])

    def write(self, name: str, text: str) -> None:
        """Replace a file of the folder at once (``mmkd.files``)."""
        with self._replacing(name) as part:
            part.write_text(text)

    def _replacing(self, name: str) -> AbstractContextManager[Path]:
        assert self.folder is not None
        return replacing(self.folder / name)

    def state_dict(self) -> dict[str, Any]:
        """The curve so far."""
        seconds = self._seconds + time.monotonic() - self._since
        return {"curve": self._curve, "seconds": seconds, "validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curve of a saved run."""
        self._curve, self._seconds = list(state_dict["curve"]), state_dict["seconds"]
        self._validated = state_dict["validated"]


def kept(cohort: Cohort) -> tuple[str, ...]:
    """Metrics that a curve keeps, the one by which peers are compared first."""
    return cohort.scores.main, *cohort.scores.beside


def coordinator(trainer: Trainer) -> DecentralizedCallback:
    """The trainer's coordinator."""
    return next(c for c in trainer.callbacks if isinstance(c, DecentralizedCallback))  # type: ignore[attr-defined]  # untyped in Lightning
