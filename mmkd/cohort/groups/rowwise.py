"""A function of one row, vectorised over all rows, and the error that is raised where torch cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from mmkd.cohort.groups.chunks import out_of_memory
from mmkd.cohort.groups.reason import VectorizeError, why
from mmkd.types import ConfigError


def rowwise(function: Callable[..., Any], fleet: str, *stacks: Any) -> Any:
    """Apply ``function`` to every row of ``stacks``, trees of tensors ``[rows, ...]``.

    Raises:
        VectorizeError: it fails for many rows at once, and not for one alone; errors of the student's own
            are raised as they are.
    """
    try:
        with mixed_precision(stacks):
            return vmap(function, randomness="different")(*stacks)
    except ConfigError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        # Torch says it in many words and types: whether one row alone goes through tells whose fault it is.
        with torch.no_grad():
            function(*tree_map(lambda t: t[0].detach().clone(), stacks))
        raise VectorizeError(
            f"the students of '{fleet}' cannot be vectorised: {why(error)}; set model.vectorize: never"
        ) from error


def mixed_precision(tensors: Any) -> AbstractContextManager[Any]:
    """A context in which convolutions and attention take operands of different precisions under autocast."""
    device = next(_devices(tensors))
    return _OnePrecision(device) if torch.is_autocast_enabled(device) else nullcontext()


def _devices(tree: Any) -> Iterator[str]:
    """Devices of the tensors of a tree, one by one: to collect all would take longer than a small step."""
    if isinstance(tree, Tensor):
        yield tree.device.type
    elif isinstance(tree, dict | tuple | list):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _devices(branch)


class _OnePrecision(TorchFunctionMode):
    """Gives such operations operands of one precision, that of autocast.

    Autocast does not reach them under ``vmap`` (torch 2.13): they fail behind a linear layer, whose output
    it has made a half-precision one. Operands that agree stay as they are.
    """

    KINDS = (
        *(F.conv1d, F.conv2d, F.conv3d),
        *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        F.scaled_dot_product_attention,
    )

    def __init__(self, device: str) -> None:
        super().__init__()
        self._half = torch.get_autocast_dtype(device)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Cast operands that differ in precision, then call the function."""
        given = (args, dict(kwargs or {}))
        if func in self.KINDS:
            floats = [t for t in tree_leaves(given) if isinstance(t, Tensor) and t.is_floating_point()]
            if len({t.dtype for t in floats}) > 1:
                given = tree_map_only(Tensor, self._cast, given)
        return func(*given[0], **given[1])

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._half) if tensor.is_floating_point() else tensor
