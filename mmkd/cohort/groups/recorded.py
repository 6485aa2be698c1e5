"""A vectorised loss and its gradient, recorded once as tensor operations and replayed without a student."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.func import vmap
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from mmkd.cohort.groups.rowwise import mixed_precision
from mmkd.functional.random import keyed

Loss: TypeAlias = Callable[..., Float[Tensor, ""]]
"""A loss of one peer: a function of parameters and buffers by name, and of a batch's tensors."""
GradientsAndLosses: TypeAlias = tuple[dict[str, Float[Tensor, "peers ..."]], Float[Tensor, " peers"]]
"""Gradients of the parameters that the losses reach, and the losses."""


class Recording(NamedTuple):
    """The recorded tensor operations of one step."""

    reached: list[str]  # parameters that the loss reaches
    replay: Callable[..., GradientsAndLosses]
    draws: bool  # whether it reads random numbers


LIMIT = 16
"""Greatest number of recordings of a group: one for each number of peers and shape of batches."""


class Recorded:
    """Losses of many peers at once, and their gradients.

    For small students most of a step is Python and the bookkeeping of ``vmap`` and autograd. A recording
    has neither: it is the sequence of tensor operations that one step made. So it is valid as long as the
    student's Python does the same in every step, whatever the values of tensors.

    Args:
        loss: of one peer, a pure function of tensors.
        compile: give recordings to ``torch.compile``, which takes half a minute each and needs a compiler.
    """

    def __init__(self, loss: Loss, *, compile: bool) -> None:
        self._loss, self._compile = loss, compile
        self._recordings: dict[Any, Recording | None] = {}

    def __call__(
        self,
        seed: int,
        learned: Sequence[str],
        parameters: dict[str, Float[Tensor, "peers ..."]],
        buffers: dict[str, Shaped[Tensor, "peers ..."]],
        *batch: Any,
    ) -> GradientsAndLosses | None:
        """Gradients and losses; None, if this step cannot be recorded.

        Args:
            seed: keys what random layers draw.
            learned: names of the parameters whose gradients are wanted.
            parameters: by name.
            buffers: by name; they may be changed.
            batch: tensors of the batch, the loss's other arguments.
        """
        parameters = {name: p.detach() for name, p in parameters.items()}
        leaves = [*parameters.values(), *tree_leaves(batch)]
        half = torch.is_autocast_enabled(leaves[0].device.type)
        kind = (half, *learned, *((t.shape, t.dtype) for t in leaves))
        if kind not in self._recordings:
            room = len(self._recordings) < LIMIT
            # Recording must leave the step's random numbers unused.
            with torch.random.fork_rng(), mixed_precision(leaves):
                self._recordings[kind] = self._record(learned, parameters, buffers, batch) if room else None
        recording = self._recordings[kind]
        if recording is None:
            return None
        reached = {name: parameters.pop(name) for name in recording.reached}
        with keyed(seed, leaves[0].device) if recording.draws else nullcontext():
            return recording.replay(reached, parameters, buffers, *batch)

    def _record(
        self,
        names: Sequence[str],
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        batch: tuple[Any, ...],
    ) -> Recording | None:
        try:
            leaves = {name: parameters[name].clone().requires_grad_() for name in names}

            def copies() -> dict[str, Tensor]:  # a loss may change buffers, and recording must not
                return {name: b.clone() for name, b in buffers.items()}

            with torch.enable_grad():
                losses = vmap(self._loss, randomness="different")({**parameters, **leaves}, copies(), *batch)
                gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
            reached = [name for name, g in zip(leaves, gradients, strict=True) if g is not None]

            def step(p: dict[str, Tensor], rest: Any, b: Any, *batch: Any) -> GradientsAndLosses:
                with torch.enable_grad():
                    leaves = {name: v.detach().requires_grad_() for name, v in p.items()}
                    losses = vmap(self._loss, randomness="different")({**leaves, **rest}, b, *batch)
                    gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
                return dict(zip(leaves, gradients, strict=True)), losses.detach()

            learned = {name: parameters[name] for name in reached}
            rest = {name: v for name, v in parameters.items() if name not in learned}
            graph = make_fx(step)(learned, rest, copies(), *batch)
            _thin(graph)
            turned = _turned(graph)
            device = tree_leaves(learned)[0].device
            plain, other = (_replayed(g, device, learned, rest, copies(), *batch) for g in (graph, turned))
            # Some processors round products of transposed matrices differently, and a replay keeps its bits.
            if all(torch.equal(a, b) for a, b in zip(plain, other, strict=True)):
                graph = turned
            draws = any(torch.Tag.nondeterministic_seeded in _tags(node) for node in graph.graph.nodes)
        except Exception as error:  # a student's Python may raise anything while it is recorded
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"this student's step cannot be recorded and runs as it is: {reason}", stacklevel=2)
            return None
        if not self._compile:
            return Recording(reached, graph, draws)
        try:
            compiled = torch.compile(graph)
            compiled(learned, rest, copies(), *batch)  # torch compiles at the first call
            return Recording(reached, compiled, draws)
        except Exception as error:  # there is no compiler, or it cannot compile this
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"this student's step cannot be compiled and is replayed: {reason}", stacklevel=2)
            self._compile = False
            return Recording(reached, graph, draws)


def _tags(node: Node) -> Sequence[torch.Tag]:
    return getattr(node.target, "tags", ())


def _thin(graph: GraphModule) -> None:
    """Remove operations whose results only autograd would read, or that change nothing."""
    aten = torch.ops.aten
    same = (aten.detach.default, aten.alias.default)
    shaped = (aten.view.default, aten._unsafe_view.default, aten.expand.default)
    for node in list(graph.graph.nodes):
        values = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
        alike = len(values) == 2 and len({(v.shape, v.dtype) for v in values if isinstance(v, Tensor)}) == 1
        once = node.target == aten.mul.Scalar and node.args[1] == 1
        if node.target in same or (alike and (once or node.target in shaped)):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()


def _replayed(graph: GraphModule, device: torch.device, *arguments: Any) -> list[Tensor]:
    """The outputs of a graph, whose random operations draw from the device's one stream."""
    with keyed(0, device):
        return tree_leaves(graph(*arguments))


def _turned(recorded: GraphModule) -> GraphModule:
    """Rewrite (a b)^T as b^T a^T, so that a gradient has its weight's memory layout and is not copied."""
    graph = copy.deepcopy(recorded)
    nodes, bmm = graph.graph, torch.ops.aten.bmm.default

    def flipped(node: Node) -> Node:
        return node.args[0] if _turns(node) else nodes.call_function(_TRANSPOSE, (node, 1, 2))  # type: ignore[return-value]  # bmm takes nodes

    for node in list(nodes.nodes):
        product = node.args[0] if _turns(node) else None
        if isinstance(product, Node) and product.target == bmm and len(product.users) == 1:
            a, b = product.args
            with nodes.inserting_before(node):
                turned = nodes.call_function(bmm, (flipped(b), flipped(a)))  # type: ignore[arg-type]  # bmm takes nodes
            node.replace_all_uses_with(turned)
            for gone in (node, product, a, b):
                if (
                    isinstance(gone, Node)
                    and not gone.users
                    and (gone is node or gone is product or _turns(gone))
                ):
                    nodes.erase_node(gone)
    graph.recompile()
    return graph


_TRANSPOSE = torch.ops.aten.transpose.int


def _turns(node: Node) -> bool:
    """Whether a node swaps the last two of three axes."""
    return node.target == _TRANSPOSE and tuple(node.args[1:]) in ((1, 2), (2, 1))
