"""Checkpoints that are whole or not there, and one line where one is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from mmkd.files import replacing, unfinished
from mmkd.names import near
from mmkd.types import ConfigError

OWN = "mmkd"
"""Key of what a cohort saves besides its students."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, flushes and renames it; the one before stays till then.

    Lightning's own writes to the system's temporary folder and moves the file: where that is another file
    system, a kill or a full disk leaves half a checkpoint under the final name. Addresses of other machines
    are left to it.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, and remove what a killed run has left of one with the same name."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        for leftover in unfinished(Path(path).parent, Path(path).name):
            leftover.unlink(missing_ok=True)
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            ConfigError: there is none, it is broken, or it is not of a cohort.
        """
        file = Path(path)
        if "://" not in str(path) and not file.is_file():
            others = sorted(p.name for p in file.parent.glob("*.ckpt")) if file.parent.is_dir() else []
            beside = f"; beside it there are {', '.join(others)}" if others else ""
            raise ConfigError(f"there is no checkpoint {file}{near(file.name, others) or beside}")
        try:
            checkpoint: Any = super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # what a broken file raises depends on where it is broken
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ConfigError(f"{path} is no whole checkpoint ({reason[:100]}); {ADVICE}") from error
        if not isinstance(checkpoint, dict) or not {"state_dict", "loops", OWN} <= checkpoint.keys():
            raise ConfigError(
                f"{path} is no checkpoint of a cohort, or one of an older mmkd; {ADVICE}, or read one"
                " student's with the load_from_checkpoint of its class"
            )
        return checkpoint


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of any kind, whole or not at all.

    Raises:
        OSError: there is no room, for instance.
    """
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's, of its own count of bytes, in place of what the disk says
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


ADVICE = "resume from another, or begin anew without it"
"""What errors about a checkpoint advise."""


def whole(path: Path) -> str | None:
    """Why a checkpoint cannot be read; None if it can be."""
    try:
        WholeCheckpoints().load_checkpoint(path)
    except ConfigError as error:
        return str(error)
    return None
