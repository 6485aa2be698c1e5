"""Initial weights of a network, from a local file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.types import ConfigError


def load_weights(modules: Sequence[nn.Module], path: str) -> None:
    """Load a checkpoint or a state dictionary into the one of these modules whose tensors have its names.

    Args:
        modules: a student and parts of it, each of which somebody may have saved.
        path: of the file.

    Raises:
        ConfigError: there is no such file, or its weights are those of another network.
    """
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path}; train such a student first, or leave weights out")
    saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    state: Mapping[str, Tensor] = saved.get("state_dict", saved)
    target = max(modules, key=lambda module: len(module.state_dict().keys() & state.keys()))
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise ConfigError(f"the weights in {path} are of another network: {line}") from error
