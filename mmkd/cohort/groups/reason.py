"""The reason why a student cannot be vectorised, with the line of the user's code."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from mmkd.types import ConfigError


class VectorizeError(ConfigError):
    """Torch cannot vectorise something over peers; the message says what, and at which line."""


def why(error: BaseException) -> str:
    """Torch's message and the line of the user's code, for torch does not always name the operation."""
    reason = str(error).strip().partition("\n")[0]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_ours(frame.filename)]
    if not own or isinstance(error, ConfigError):
        return reason
    return f"{reason} (at `{own[-1].line}`, {Path(own[-1].filename).name}, line {own[-1].lineno})"


def _of_ours(file: str) -> bool:
    """Whether a file belongs to torch or to ``mmkd.cohort``, and not to a user."""
    return Path(torch.__file__).parent in Path(file).parents or Path(__file__).parent in Path(file).parents
