"""Initial weights of a network, from a local file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmkd.types import ConfigError


def read_weights(path: str) -> Mapping[str, Tensor]:
    """The tensors of a file: a checkpoint, a state dictionary, or one in the format of safetensors.

    Raises:
        ConfigError: there is no such file, or it holds no tensors by name.
    """
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path}; train such a student first, or leave weights out")
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
        state: Mapping[str, Tensor] = saved.get("state_dict", saved)
        wrong = next((name for name, tensor in state.items() if not isinstance(tensor, Tensor)), None)
    except (AttributeError, EOFError, OSError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise ConfigError(f"{path} holds no weights: {' '.join(str(error).split())[:200]}") from error
    if wrong is not None:
        raise ConfigError(f"{path} holds no weights: '{wrong}' is no tensor")
    return state


def load_weights(modules: Sequence[nn.Module], path: str) -> None:
    """Load a checkpoint or a state dictionary into the one of these modules whose tensors have its names.

    Args:
        modules: a student and parts of it, each of which somebody may have saved.
        path: of the file.

    Raises:
        ConfigError: there is no such file, it holds no weights, or its weights are those of another network.
    """
    state = read_weights(path)
    target = max(modules, key=lambda module: len(module.state_dict().keys() & state.keys()))
    with of_this_network(path):
        target.load_state_dict(state)


@contextmanager
def of_this_network(path: str) -> Iterator[None]:
    """While a file is loaded: other names and other shapes are one line.

    Raises:
        ConfigError: the weights in the file are of another network.
    """
    try:
        yield
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise ConfigError(f"the weights in {path} are of another network: {line}") from error
