"""A logger for Weights & Biases, offline when nobody is logged in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger


class Wandb(WandbLogger):
    """A ``WandbLogger`` that never asks for a login: without one, the run stays on this machine.

    If ``WANDB_MODE`` is set, it decides. ``wandb sync`` sends an offline run later.

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


def logged_in() -> bool:
    """Whether W&B has a key for this user; neither prompts nor asks the network."""
    return bool(wandb.login(prompt=False, verify=False))
