"""A callback that writes what a report needs: the curve of a run, its ledger and its result."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from secrets import token_hex
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mmkd.callbacks.decentralized import DecentralizedCallback
from mmkd.callbacks.predictions import PredictionTable
from mmkd.callbacks.run_folder import RunFolder, folder_of, fresh
from mmkd.cohort.cohort import Cohort
from mmkd.coordination.method import Method
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
    """Writes ``curve.csv``, ``ledger.csv`` and ``outcome.json`` into a folder of the run's own.

    They are written however a run ends: ``outcome.json`` says why, and has the results of the test once
    there are any. After ``predict`` there is ``predictions.csv``, a row for each peer and sample, or for each
    detection. Each file is replaced at once, so a run that is killed leaves none half-written.
    The folder is locked while the run lasts, and no other run writes into it. Checkpoints of a
    ``ModelCheckpoint`` without a ``dirpath`` go there, too.

    Args:
        folder: where to write. If left out, that of the checkpoint with which a run goes on; else a new one
            below ``results`` in the trainer's root, whose name has method, seed and time.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else None
        self._run = token_hex(8)
        self._claimed: RunFolder | None = None
        self._waiting: dict[str, str] = {}
        self._saving: list[ModelCheckpoint] = []
        self._facts: dict[str, Any] = {"step": 0, "round": 0, "edges": [], "vectorized": {}}
        self._curve: list[dict[str, Any]] = []
        self._validated: dict[PeerName, dict[str, float]] = {}
        self._seconds = 0.0
        self._since = time.monotonic()
        self._table: PredictionTable | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note whose checkpoints are to go into the folder, before Lightning finds another for them."""
        saving = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        self._saving = [c for c in saving if c.dirpath is None] or self._saving
        self._since = time.monotonic()

    def _claim(self, trainer: Trainer) -> None:
        """Choose the folder and hold it, now that it is known whether this run goes on with another."""
        if self._claimed is not None:
            return
        saved = trainer.ckpt_path
        if self.folder is None and saved is not None and "://" not in str(saved):
            self.folder = folder_of(Path(saved).resolve())
        if self.folder is None:
            name = words(coordinator(trainer).method, "-")
            seed = trainer.datamodule.seed  # type: ignore[attr-defined]  # Lightning types it too late
            self.folder = fresh(Path(trainer.default_root_dir) / "results", f"{name}-seed{seed}")
        folder = RunFolder(self.folder)
        folder.claim(self._run)
        self._claimed = folder
        for saving in self._saving:
            saving.dirpath = str(self.folder / "checkpoints")
        for name, text in self._waiting.items():
            self.write(name, text)
        self._waiting = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Claim the folder.

        Raises:
            ConfigError: it is another run's, or another process writes into it.
        """
        self._claim(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Claim the folder, as for a fit."""
        self._claim(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let others read and go on."""
        if self._claimed is not None:
            self._claimed.release()
            self._claimed = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point to every peer's curve."""
        if trainer.sanity_checking or not isinstance(pl_module, Cohort):
            return
        self._validated = pl_module.metrics
        if trainer.state.fn == "fit":
            self._add(trainer, pl_module, "val")
            self._write_curve(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what a test in another process could not know: the graph, and how each fleet trains."""
        if isinstance(pl_module, Cohort):
            callback = coordinator(trainer)
            self._facts["edges"] = [list(edge) for edge in callback.edges(pl_module.names)]
            self._facts["vectorized"] = {f: choice._asdict() for f, choice in pl_module.ways.choices.items()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Note how far the run is."""
        if isinstance(pl_module, Cohort):
            step = trainer.global_step
            self._facts |= {"step": step, "round": pl_module.timetable.round_of(step)}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the ledger, and how the run has ended."""
        self._seconds += time.monotonic() - self._since
        self._end(trainer, pl_module, "finished")

    def _end(self, trainer: Trainer, pl_module: LightningModule, why: str) -> None:
        with self._replacing("ledger.csv") as part:
            coordinator(trainer).ledger.write(part)
        if isinstance(pl_module, Cohort):
            outcome = {
                "ended": why,
                "step": self._facts["step"],
                "bytes_per_peer": coordinator(trainer).ledger.bytes_per_peer(),
                "val": self._validated,
            }
            self.write("outcome.json", json.dumps(outcome, indent=1))

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
            self._claim(trainer)
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
        """Write what there is and why the run ends; a table that is not finished is none."""
        if self._table is not None:
            self._table.close(exception)
        if self._claimed is not None and trainer.state.fn == "fit":
            with suppress(OSError):  # the disk may be full, which is then what ends the run
                if isinstance(pl_module, Cohort) and self._curve:
                    self._write_curve(pl_module)
                said = " ".join(str(exception).split())
                self._end(
                    trainer,
                    pl_module,
                    f"{type(exception).__name__}: {said}" if said else type(exception).__name__,
                )
        self.teardown(trainer, pl_module, "fit")  # which Lightning does not call then

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
            "ended": "tested",
            "seconds": round(self._seconds, 2),
            "peers": peers,
            "cost": self._costs(cohort, data),
            "metric": cohort.scores.main,
            "vectorized": self._facts["vectorized"],
            "test": cohort.metrics,
            "val": self._validated,
            "absent": {name: absence._asdict() for name, absence in cohort.absent.items()},
            "ledger": {
                "bytes_per_peer": callback.ledger.bytes_per_peer(),
                "framing_per_peer": framing / len(cohort.names),
                "by_kind": callback.ledger.by_kind(),
                "hub_flops": dict(callback.ledger.hub_flops),
                "rounds": self._facts["round"],
            },
            "topology": {
                "name": type(callback.method.topology).__name__,
                "hub": callback.hub,
                "edges": self._facts["edges"],
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
        when = (
            self._facts["round"],
            self._facts["step"],
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
        """Replace a file of the folder at once (``mmkd.files``), as soon as the folder is this run's."""
        if self._claimed is None:
            self._waiting[name] = text
            return
        with self._replacing(name) as part:
            part.write_text(text)

    def _replacing(self, name: str) -> AbstractContextManager[Path]:
        assert self.folder is not None
        return replacing(self.folder / name)

    def summary(self, trainer: Trainer, cohort: Cohort) -> str:
        """Where the run is, how well each modality does at the last evaluation, and what was sent."""
        scores: dict[str, list[float]] = defaultdict(list)
        for name, metrics in self._validated.items():
            scores[cohort.roster[0][name]].append(metrics[cohort.scores.main])
        told = ", ".join(f"{modality} {fmean(own):.3f}" for modality, own in scores.items())
        ledger = coordinator(trainer).ledger
        spent = f"{ledger.bytes_per_peer():,.0f} bytes a peer"
        if len(cohort.roster[0]) > len(cohort.names):  # the others count what they send
            spent = f"{ledger.total():,} bytes sent from here"
        said = f"{cohort.scores.main.replace('_', ' ')} (validation): {told}; " if told else ""
        return f"run: {self.folder}; {said}{spent}"

    def state_dict(self) -> dict[str, Any]:
        """The run and its curve so far."""
        seconds = self._seconds + time.monotonic() - self._since
        return {
            "run": self._run,
            "curve": self._curve,
            "seconds": seconds,
            "validated": self._validated,
            "facts": dict(self._facts),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curve of a saved run."""
        self._curve, self._seconds = list(state_dict["curve"]), state_dict["seconds"]
        self._validated = state_dict["validated"]
        self._run, self._facts = state_dict["run"], dict(state_dict["facts"])


def kept(cohort: Cohort) -> tuple[str, ...]:
    """Metrics that a curve keeps, the one by which peers are compared first."""
    return cohort.scores.main, *cohort.scores.beside


def coordinator(trainer: Trainer) -> DecentralizedCallback:
    """The trainer's coordinator."""
    return next(c for c in trainer.callbacks if isinstance(c, DecentralizedCallback))  # type: ignore[attr-defined]  # untyped in Lightning


def words(method: Method, between: str) -> str:
    """What a method is made of, in words that are joined."""
    parts = [type(part).__name__ for part in (method.knowledge, method.aggregation) if part is not None]
    return between.join([*parts, type(method.topology).__name__] if parts else ["alone"])
