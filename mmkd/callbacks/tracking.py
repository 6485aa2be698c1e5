"""A logger for Weights & Biases, offline when nobody is logged in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger


class Wandb(WandbLogger):
    """A ``WandbLogger`` that never asks for a login: without one, the run stays on this machine.

    If ``WANDB_MODE`` is set, it decides. ``wandb sync`` sends an offline run later. Rounds are the x axis of
    all metrics, and bytes sent so far stand beside those of an evaluation, to be chosen instead.

    Args:
        project: where W&B keeps the run.
        group: the study that the run belongs to.
        name: of the run.
        save_dir: where files go; ``WANDB_DIR`` or ``results`` if left out.
        **kwargs: as of ``WandbLogger``; ``offline`` and ``mode`` are chosen here.
    """

    def __init__(
        self,
        project: str = "mmkd",
        group: str | None = None,
        name: str | None = None,
        save_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        folder = Path(save_dir or os.environ.get("WANDB_DIR", "results"))
        folder.mkdir(parents=True, exist_ok=True)
        offline = os.environ.get("WANDB_MODE", "") == "offline" or not logged_in()
        kwargs.pop("mode", None)
        super().__init__(
            project=project,
            group=group,
            name=name,
            save_dir=str(folder),
            offline=offline,
            # Set here, because Lightning sets WANDB_MODE only after W&B has asked for a key.
            mode="offline" if offline else None,
            log_model=False,
            **kwargs,
        )
        self._named = name is not None or "WANDB_NAME" in os.environ
        self._spent: dict[str, float] = {}

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics; those of an evaluation beside the round and the bytes sent so far."""
        if "round" in metrics:
            if not self._spent:
                self.experiment.define_metric("round", hidden=True)
                for kind in ("val/*", "train/*", "peer/*", "ledger/*", "knowledge/*"):
                    self.experiment.define_metric(kind, step_metric="round", step_sync=True)
            self._spent = {name: metrics[name] for name in ("round", BYTES) if name in metrics}
        elif any("val/" in name for name in metrics):
            metrics = {**metrics, **self._spent}
        super().log_metrics(metrics, step)

    def introduce(self, name: str, tags: Sequence[str], peers: Sequence[Mapping[str, Any]]) -> None:
        """Say what a run is: its name, unless it has one, tags to find it by, and a table of its peers."""
        if not self._named:
            self.experiment.name = name
        self.experiment.tags = tuple(dict.fromkeys([*(self.experiment.tags or ()), *tags]))
        self.log_table("peers", columns=list(peers[0]), data=[list(peer.values()) for peer in peers])


BYTES = "ledger/bytes_per_peer"
"""What a peer has sent and received so far."""


def logged_in() -> bool:
    """Whether W&B has a key for this user; neither prompts nor asks the network."""
    return bool(wandb.login(prompt=False, verify=False))
