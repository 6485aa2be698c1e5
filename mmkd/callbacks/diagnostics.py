"""A callback that measures calibration, agreement and influence of peers while they train."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from mmkd.bounds import Count, bounded
from mmkd.cohort.cohort import Cohort
from mmkd.cohort.peers import Peers
from mmkd.coordination.coordinator import Coordinator
from mmkd.coordination.lessons import Lessons
from mmkd.coordination.public_set import PIECE, evaluate, see_public
from mmkd.data.base import PeerData
from mmkd.data.samples import view_of
from mmkd.diagnostics.heat_map import heat_map
from mmkd.diagnostics.influence import influence, tested
from mmkd.evaluation.accuracy import Head
from mmkd.evaluation.logged import by_peer
from mmkd.evaluation.scores import classes_of
from mmkd.files import replacing
from mmkd.functional.calibration import agreement, calibration_error, mean_confidence
from mmkd.functional.random import generator, key, keyed
from mmkd.types import Batch, Classes, ConfigError, Modality, PeerName, Public


class Measurement(NamedTuple):
    """The measurement after one validation; peers are in the order of the cohort."""

    step: int
    calibration_error: Tensor  # [peers]
    confidence: Tensor | None = None  # [peers]
    agreement: Tensor | None = None  # [peers, peers]
    influence: Tensor | None = None  # [listeners, teachers]


@bounded
class Diagnostics(Callback):
    """Measures after validation how sure and how alike peers are, and which teacher helps which peer.

    - *Calibration error* of every peer, on validation samples.
    - *Confidence* of every peer and *agreement* of every pair, on public samples.
    - *Influence* of every teacher on every listener: how much faster the validation loss of the
      listener falls along the distillation gradient because the teacher speaks, per unit of learning
      rate. Positive: the teacher helps. The mean over measurements compares the teachers of each listener.

    All are about the main head, or about the last auxiliary one if that is what the cohort tests. Without
    knowledge about public samples there is only the calibration error. Measuring changes nothing: training is
    the same bit for bit, and so is the ledger.

    Writes ``diagnostics.json`` at every measurement, where rows are listeners and columns teachers, and
    ``agreement.png`` (of the last) and ``influence.png`` (the mean over all) when the fit ends.

    Args:
        every: validations between two measurements.
        folder: where to write; the trainer's log folder if left out.

    Raises:
        ConfigError: ``every`` is below 1.
    """

    def __init__(self, every: Count = 1, folder: str | Path | None = None) -> None:
        self.every, self.folder = every, Path(folder) if folder is not None else None
        self.measurements: list[Measurement] = []
        self._validations = 0
        self._public: Public | None = None

    @property
    def influence(self) -> Float[Tensor, "listeners teachers"] | None:
        """Mean influence over measurements, each row first scaled to a mean square of 1 over teachers heard.

        TracIn adds up over checkpoints (Pruthi et al. 2020). Gradients differ in size between
        measurements and listeners, and Adam divides by their size. Unscaled, a few would outweigh all others,
        and the sum would predict less of what a listener loses without a teacher (docs/studies).
        """
        measured = [m.influence for m in self.measurements if m.influence is not None]
        if not measured:
            return None
        rows = torch.stack(measured)
        heard = (rows != 0).sum(2, keepdim=True).clamp(min=1)
        size = (rows.square().sum(2, keepdim=True) / heard).sqrt()
        return (rows / size.masked_fill(size == 0, 1.0)).mean(0)

    # --- measuring -----------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the folder.

        Raises:
            ConfigError: the students give no classes.
        """
        if isinstance(pl_module, Cohort) and pl_module.gives is not Classes:
            raise ConfigError(
                "Diagnostics read class probabilities, and the students give"
                f" {pl_module.gives.__name__}; leave them out"
            )
        if self.folder is None:
            self.folder = Path(trainer.log_dir or trainer.default_root_dir)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a cohort of which this process has not all peers.

        Raises:
            ConfigError: some peers are in other processes.
        """
        if isinstance(pl_module, Cohort) and not pl_module.peers.whole:
            raise ConfigError(
                "Diagnostics compare what all peers say: leave them out where some are in other processes"
            )

    # Peers are measured as they are evaluated: on_validation_end restores the weights of those that sit out.
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if ``every`` validations have passed."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not isinstance(pl_module, Cohort):
            return
        self._validations += 1
        if self._validations % self.every:
            return
        cohort, data = pl_module, trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        coordinator = cohort.coordinator
        lessons = coordinator.lessons if isinstance(coordinator, Coordinator) else None
        with keyed(key(data.seed, "diagnostics", cohort.global_step), cohort.device):
            measurement, hears = self._measure(cohort.peers, data, lessons, cohort.head, cohort.global_step)
        self.measurements.append(measurement)
        assert self.folder is not None
        with replacing(self.folder / "diagnostics.json") as part:
            part.write_text(json.dumps(self._record(cohort), allow_nan=False))
        for logger in trainer.loggers:
            logger.log_metrics(_figures(measurement, hears, cohort.roster[0]), step=cohort.global_step)

    @torch.no_grad()
    def _measure(
        self, peers: Peers, data: PeerData, lessons: Lessons | None, head: Head, step: int
    ) -> tuple[Measurement, Tensor]:
        """The measurement at this step, and whom each peer hears."""
        names, probes, errors = peers.names, dict[PeerName, Batch](), []
        for name in names:
            probe = _probe(peers, data, name)
            if probe is None:
                errors.append(torch.full((1,), torch.nan))
                continue
            probes[name] = probe
            group, row = peers.axis.locate(name)
            predictions = group.predict([row], probe.x)
            assert isinstance(predictions, Classes)
            assert probe.y is not None
            errors.append(calibration_error(tested(predictions, head).softmax(-1), probe.y[None]))
        measurement = Measurement(step, torch.cat(errors).cpu())
        if lessons is None or not lessons.reads_public:
            return measurement, torch.zeros(len(names), len(names), dtype=torch.bool)
        if self._public is None:
            self._public = see_public(peers, data)
        logits, shown = _on_public(peers, self._public, head, step)
        found, hears = influence(peers, lessons, self._public, probes, head, step)
        measurement = measurement._replace(
            confidence=mean_confidence(logits, shown).cpu(),
            agreement=agreement(logits, shown).cpu(),
            influence=found,
        )
        return measurement, hears

    # --- writing -----------------------------------------------------------------------------------

    def _record(self, cohort: Cohort) -> dict[str, Any]:
        measurements = [{n: _plain(v) for n, v in m._asdict().items()} for m in self.measurements]
        return {"peers": cohort.roster[0], "influence": _plain(self.influence), "measurements": measurements}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the measurements, and log the pictures to Weights & Biases if the run is tracked there."""
        mean = self.influence
        if mean is None or not isinstance(pl_module, Cohort):
            return
        assert self.folder is not None
        matrices = {"agreement": self.measurements[-1].agreement, "influence": mean}
        for name, matrix in matrices.items():
            assert matrix is not None
            figure = heat_map(
                matrix, pl_module.roster[0], diverging=name == "influence", label=CAPTIONS[name]
            )
            file = self.folder / f"{name}.png"
            with replacing(file) as part:
                figure.savefig(part, format="png", dpi=180)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"diagnostics/{name}", [str(file)])

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All measurements so far."""
        return {"validations": self._validations, "measurements": [m._asdict() for m in self.measurements]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the measurements of a saved run."""
        self._validations = state_dict["validations"]
        self.measurements = [Measurement(**m) for m in state_dict["measurements"]]


# --- what is measured ------------------------------------------------------------------------------


def _probe(peers: Peers, data: PeerData, name: PeerName) -> Batch | None:
    """The labelled validation samples with which influence on a peer is measured, always the same, if any."""
    reader = data.reader(name, "val")
    size = len(reader)
    if size == 0:
        return None
    chosen = torch.arange(size)
    if size > PIECE:
        chosen = torch.randperm(size, generator=generator(data.seed, peers.ids[name], "probe"))[:PIECE]
    probe = reader.batch(chosen, 0)
    if probe.labelled is not None:
        if not bool(probe.labelled.any()):
            return None
        probe = reader.batch(chosen[probe.labelled], 0)._replace(labelled=None)
    assert probe.y is not None
    return peers.to_device(probe._replace(y=classes_of(probe.y, data.num_classes)))


def _on_public(peers: Peers, public: Public, head: Head, step: int) -> tuple[Tensor, Tensor]:
    """Logits of all peers, and which samples each sees."""
    logits, shown = {}, {}
    for number, rows, predictions in evaluate(peers, peers.rows_of(peers.names), public, step):
        assert isinstance(predictions, Classes)
        seen = view_of(public, peers.modality(number))[1]
        for row, said in zip(rows, tested(predictions, head), strict=True):
            name = peers.groups[number].names[row]
            logits[name], shown[name] = said, seen
    return tuple(torch.stack([of[name] for name in peers.names]) for of in (logits, shown))  # type: ignore[return-value]  # two


# --- output ---------------------------------------------------------------------------------------


def _figures(
    measurement: Measurement, hears: Tensor, modalities: Mapping[PeerName, Modality]
) -> dict[str, float]:
    """Numbers to log, without those that are nan."""
    names = list(modalities)
    errors = measurement.calibration_error.tolist()
    figures = by_peer("val/calibration_error", dict(zip(names, errors, strict=True)))
    if measurement.confidence is not None and measurement.agreement is not None:
        confidence = measurement.confidence.tolist()
        figures |= by_peer("public/confidence", dict(zip(names, confidence, strict=True)))
        figures["agreement/edges"] = measurement.agreement[hears].nanmean().item()
        of = {m: torch.tensor([other == m for other in modalities.values()]) for m in modalities.values()}
        others = ~torch.eye(len(names), dtype=torch.bool)
        for a, b in combinations_with_replacement(sorted(of), 2):
            pairs = of[a][:, None] & of[b] & others
            figures[f"agreement/{a}-{b}"] = measurement.agreement[pairs].nanmean().item()
    return {n: value for n, value in figures.items() if math.isfinite(value)}


def _plain(value: Any) -> Any:
    """Numbers and lists for JSON, which has no nan."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


CAPTIONS = {"agreement": "agreement", "influence": "influence: the teacher helps (+) or hurts (-)"}
"""Label of the colour scale of each matrix that is drawn."""
