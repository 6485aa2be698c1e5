"""Weights & Biases, offline when nobody is logged in."""

from __future__ import annotations

import os
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger


class Wandb(WandbLogger):
    """A ``WandbLogger`` that never asks for a login: without one, the run stays on this machine.

    ``WANDB_MODE`` decides if it is set. ``wandb sync`` sends an offline run later.

    Args:
        **kwargs: as of ``WandbLogger``; ``offline`` is chosen here.
    """

    def __init__(
        self,
        project: str = "mmkd",
        group: str | None = None,
        name: str | None = None,
        save_dir: str = ".",
        **kwargs: Any,
    ) -> None:
        offline = os.environ.get("WANDB_MODE", "") == "offline" or not logged_in()
        super().__init__(
            project=project,
            group=group,
            name=name,
            save_dir=save_dir,
            offline=offline,
            log_model=False,
            **kwargs,
        )


def logged_in() -> bool:
    """Whether W&B has a key for this user; asks nobody."""
    return bool(wandb.api.api_key)
