"""Keeps what a trade-off report draws: a curve while training, and the result of the run."""

from __future__ import annotations

import csv
import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmkd.callbacks.decentralized import DecentralizedCallback
from mmkd.cohort.cohort import Cohort
from mmkd.cost.footprint import footprint
from mmkd.data.samples import take_private
from mmkd.files import replacing
from mmkd.types import PeerName

if TYPE_CHECKING:
    from mmkd.data.peers import PeerDataModule

COLUMNS = ("round", "step", "bytes_per_peer", "flops_per_peer", "split", "peer", "modality")
"""What a row of a curve begins with; a column for each of the metrics that it keeps follows."""


class Recorder(Callback):
    """Writes ``curve.csv``, ``ledger.csv`` and, once tested, ``outcome.json`` into a folder.

    Files are replaced whole, so a run that is killed leaves no half-written one behind.

    Args:
        folder: where to write; the trainer's log folder if left out.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else None
        self._curve: list[dict[str, Any]] = []
        self._validated: dict[PeerName, dict[str, float]] = {}
        self._seconds = 0.0
        self._since = time.monotonic()

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
        """What one test sample costs a student of each fleet."""
        costs = {}
        for fleet, group in zip(cohort.fleets, cohort.peers.groups, strict=True):
            sample = take_private(data.private(group.names[0], "test"), torch.arange(1), 0)
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
            writer = csv.DictWriter(file, (*COLUMNS, *kept(cohort)))
            writer.writeheader()
            writer.writerows(self._curve)

    def write(self, name: str, text: str) -> None:
        """Replace a file of the folder whole."""
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
