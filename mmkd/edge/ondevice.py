"""A callback that says how well and how fast compressed students of a run would be on a device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmkd.callbacks.recorder import Recorder
from mmkd.cohort.cohort import Cohort
from mmkd.edge.compression.measured import measured
from mmkd.edge.compression.recipe import Recipe, compressed
from mmkd.edge.trained import Trained
from mmkd.names import near
from mmkd.types import ConfigError, PeerName

FILE = "device.json"
"""File in the folder of a run."""
TAKEN = ("score", "bytes", "median_ms", "p95_ms", "peak_mib", "model_mib")
"""What it says of each peer and recipe."""


class OnDevice(Callback):
    """Compresses students by some recipes after a test, exports them, and writes how the files do.

    ``device.json`` in the recorder's folder has, for each peer and recipe, the ``score`` of the file on test
    samples by the run's own metric, its ``bytes``, ``median_ms`` and ``p95_ms`` of one sample on one core,
    and ``peak_mib`` and ``model_mib`` of memory. A recipe without steps is the student as it is.

    Args:
        recipes: by name.
        peers: whose students are compressed; the first of each fleet, if left out.

    Raises:
        ConfigError: there is no recipe.
    """

    def __init__(self, recipes: dict[str, Recipe], peers: Sequence[PeerName] | None = None) -> None:
        if not recipes:
            raise ConfigError("OnDevice has no recipes: name one, such as {original: {}}")
        self.recipes, self.peers = recipes, peers

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse peers that are not there before anything trains."""
        if isinstance(pl_module, Cohort):
            for peer in self.peers or ():
                if peer not in pl_module.names:
                    raise ConfigError(f"OnDevice: there is no peer '{peer}'{near(peer, pl_module.names)}")

    @torch.inference_mode(False)
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compress, export and measure."""
        if not isinstance(pl_module, Cohort):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        recorder = next(c for c in trainer.callbacks if isinstance(c, Recorder))  # type: ignore[attr-defined]  # untyped in Lightning
        run = Trained("run", "", pl_module, data, pl_module.scores.best)
        found: dict[str, dict[str, dict[str, float]]] = {}
        for peer in self.peers or [group.names[0] for group in pl_module.peers.groups]:
            found[peer] = {}
            for name, recipe in self.recipes.items():
                done = measured(compressed(run, peer, recipe), data, peer, recipe.format)._asdict()
                found[peer][name] = {key: done[key] for key in TAKEN}
        recorder.write(FILE, json.dumps(found, indent=1))
