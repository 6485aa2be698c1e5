"""A vectorised loss and its gradient, recorded once as tensor operations and replayed without a student."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

Loss = Callable[..., Tensor]
"""Of parameters and buffers by name, and of a batch's tensors; of one peer."""

LIMIT = 16
"""Recordings of one group: one for each number of peers and shape of batches. The others are not recorded."""


class Recorded:
    """Losses of many peers at once, whose gradients are found in the same pass.

    For small students most of a step is Python and the bookkeeping of ``vmap`` and autograd. A recording
    has neither: it is the sequence of tensor operations that one step made. So it holds as long as the
    student's Python does the same in every step, whatever it is given.

    Args:
        loss: of one peer, a pure function of tensors.
        compile: give recordings to ``torch.compile``, which takes half a minute each and needs a compiler.
    """

    def __init__(self, loss: Loss, *, compile: bool) -> None:
        self._loss, self._compile = loss, compile
        self._recordings: dict[Any, tuple[list[str], Callable[..., Any]] | None] = {}

    def __call__(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], *batch: Any
    ) -> Float[Tensor, " peers"] | None:
        """Losses, which autograd knows how to descend; nothing, if this step cannot be recorded."""
        leaves = [*parameters.values(), *tree_leaves(batch)]
        kind = (torch.is_autocast_enabled(leaves[0].device.type), *((t.shape, t.dtype) for t in leaves))
        if kind not in self._recordings:
            room = len(self._recordings) < LIMIT
            with torch.random.fork_rng():  # the step itself has yet to draw
                self._recordings[kind] = self._record(parameters, buffers, batch) if room else None
        found = self._recordings[kind]
        if found is None:
            return None
        names, replay = found
        rest = {name: p.detach() for name, p in parameters.items() if name not in names}
        losses: Tensor = _Replay.apply(  # type: ignore[no-untyped-call]  # torch has no types here
            replay, names, rest, buffers, batch, *(parameters[name] for name in names)
        )
        return losses

    def _record(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: tuple[Any, ...]
    ) -> tuple[list[str], Callable[..., Any]] | None:
        """Parameters that the loss reaches, and the recording."""
        try:
            values = {name: p.detach() for name, p in parameters.items()}
            leaves = {n: v.clone().requires_grad_() for n, v in values.items() if parameters[n].requires_grad}

            def copies() -> dict[str, Tensor]:  # a loss may change buffers, and this one is not counted
                return {name: b.clone() for name, b in buffers.items()}

            with torch.enable_grad():
                losses = vmap(self._loss, randomness="different")({**values, **leaves}, copies(), *batch)
                found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
            names = [name for name, g in zip(leaves, found, strict=True) if g is not None]

            def step(
                p: dict[str, Tensor], rest: Any, b: Any, *batch: Any
            ) -> tuple[dict[str, Tensor], Tensor]:
                with torch.enable_grad():
                    leaves = {name: v.detach().requires_grad_() for name, v in p.items()}
                    losses = vmap(self._loss, randomness="different")({**leaves, **rest}, b, *batch)
                    found = torch.autograd.grad(losses.sum(), list(leaves.values()))
                return dict(zip(leaves, found, strict=True)), losses.detach()

            learned = {name: values[name] for name in names}
            rest = {name: v for name, v in values.items() if name not in learned}
            graph = make_fx(step)(learned, rest, copies(), *batch)
            _thin(graph)
            return names, torch.compile(graph) if self._compile else graph
        except Exception as error:  # whatever a student's Python may run into while it is recorded
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"this student's step cannot be recorded and runs as it is: {reason}", stacklevel=2)
            return None


class _Replay(torch.autograd.Function):
    """Losses forward; backward the gradients that came with them."""

    @staticmethod
    def forward(ctx: Any, replay: Any, names: Any, rest: Any, buffers: Any, batch: Any, *learned: Any) -> Any:
        parameters = {name: p.detach() for name, p in zip(names, learned, strict=True)}
        gradients, losses = replay(parameters, rest, buffers, *batch)
        ctx.gradients = [gradients[name] for name in names]
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        scale = grads[0]
        shaped = (scale.view(-1, *[1] * (g.dim() - 1)) for g in ctx.gradients)
        scaled = [g * s for g, s in zip(ctx.gradients, shaped, strict=True)]
        return None, None, None, None, None, *scaled


def _thin(graph: GraphModule) -> None:
    """Leave out what only autograd would have read."""
    for node in list(graph.graph.nodes):
        if node.target in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
