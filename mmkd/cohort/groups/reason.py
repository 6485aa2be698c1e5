"""Why a student cannot be vectorised, in a line that leads to the user's own code."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from mmkd.types import ConfigError


class VectorizeError(ConfigError):
    """Torch cannot do for many peers at once what it does for one; the message says what, and where."""


def why(error: BaseException) -> str:
    """What torch says, and at which line of the user's code: it does not always name the operation."""
    reason = str(error).strip().partition("\n")[0]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_ours(frame.filename)]
    if not own or isinstance(error, ConfigError):
        return reason
    return f"{reason} (at `{own[-1].line}`, {Path(own[-1].filename).name}, line {own[-1].lineno})"


def _of_ours(file: str) -> bool:
    """Whether a file is torch's or belongs to cohorts."""
    return Path(torch.__file__).parent in Path(file).parents or Path(__file__).parent in Path(file).parents
