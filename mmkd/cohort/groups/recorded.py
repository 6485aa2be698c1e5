"""A vectorised loss and its gradient, recorded once as tensor operations and replayed without a student."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import vmap
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from mmkd.cohort.groups.rowwise import mixed_precision
from mmkd.functional.random import keyed

Loss: TypeAlias = Callable[..., Tensor]
"""Of parameters and buffers by name, and of a batch's tensors; of one peer."""
Found: TypeAlias = tuple[dict[str, Tensor], Tensor]
"""Gradients of the parameters that the losses reach, and the losses, each with a leading peer axis."""


class Recording(NamedTuple):
    """One step written down."""

    reached: list[str]  # parameters that the loss reaches
    replay: Callable[..., Found]
    draws: bool  # whether it reads random numbers


LIMIT = 16
"""Recordings of one group: one for each number of peers and shape of batches. The others are not recorded."""


class Recorded:
    """Losses of many peers at once, and their gradients.

    For small students most of a step is Python and the bookkeeping of ``vmap`` and autograd. A recording
    has neither: it is the sequence of tensor operations that one step made. So it holds as long as the
    student's Python does the same in every step, whatever it is given.

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
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        *batch: Any,
    ) -> Found | None:
        """Gradients and losses; nothing, if this step cannot be recorded.

        Args:
            seed: of what random layers draw.
            learned: names of the parameters whose gradients are wanted.
            parameters: by name.
            buffers: by name; they may be changed.
            batch: what else the loss takes.
        """
        parameters = {name: p.detach() for name, p in parameters.items()}
        leaves = [*parameters.values(), *tree_leaves(batch)]
        half = torch.is_autocast_enabled(leaves[0].device.type)
        kind = (half, *learned, *((t.shape, t.dtype) for t in leaves))
        if kind not in self._recordings:
            room = len(self._recordings) < LIMIT
            with torch.random.fork_rng(), mixed_precision(leaves):  # the step itself has yet to draw
                self._recordings[kind] = self._record(learned, parameters, buffers, batch) if room else None
        found = self._recordings[kind]
        if found is None:
            return None
        reached = {name: parameters.pop(name) for name in found.reached}
        with keyed(seed, leaves[0].device) if found.draws else nullcontext():
            return found.replay(reached, parameters, buffers, *batch)

    def _record(
        self,
        names: Sequence[str],
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        batch: tuple[Any, ...],
    ) -> Recording | None:
        try:
            leaves = {name: parameters[name].clone().requires_grad_() for name in names}

            def copies() -> dict[str, Tensor]:  # a loss may change buffers, and this one is not counted
                return {name: b.clone() for name, b in buffers.items()}

            with torch.enable_grad():
                losses = vmap(self._loss, randomness="different")({**parameters, **leaves}, copies(), *batch)
                found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
            reached = [name for name, g in zip(leaves, found, strict=True) if g is not None]

            def step(p: dict[str, Tensor], rest: Any, b: Any, *batch: Any) -> Found:
                with torch.enable_grad():
                    leaves = {name: v.detach().requires_grad_() for name, v in p.items()}
                    losses = vmap(self._loss, randomness="different")({**leaves, **rest}, b, *batch)
                    found = torch.autograd.grad(losses.sum(), list(leaves.values()))
                return dict(zip(leaves, found, strict=True)), losses.detach()

            learned = {name: parameters[name] for name in reached}
            rest = {name: v for name, v in parameters.items() if name not in learned}
            graph = make_fx(step)(learned, rest, copies(), *batch)
            _thin(graph)
            turned = _turned(graph)
            device = tree_leaves(learned)[0].device
            plain, other = (_replayed(g, device, learned, rest, copies(), *batch) for g in (graph, turned))
            # Some processors round the product of turned matrices otherwise, and a replay has the same bits.
            if all(torch.equal(a, b) for a, b in zip(plain, other, strict=True)):
                graph = turned
            draws = any(torch.Tag.nondeterministic_seeded in _tags(node) for node in graph.graph.nodes)
        except Exception as error:  # whatever a student's Python may run into while it is recorded
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"this student's step cannot be recorded and runs as it is: {reason}", stacklevel=2)
            return None
        if not self._compile:
            return Recording(reached, graph, draws)
        try:
            compiled = torch.compile(graph)
            compiled(learned, rest, copies(), *batch)  # it compiles when it is called
            return Recording(reached, compiled, draws)
        except Exception as error:  # there is no compiler, or it has met what it cannot compile
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"this student's step cannot be compiled and is replayed: {reason}", stacklevel=2)
            self._compile = False
            return Recording(reached, graph, draws)


def _tags(node: Node) -> Sequence[torch.Tag]:
    return getattr(node.target, "tags", ())


def _thin(graph: GraphModule) -> None:
    """Leave out what only autograd would have read, and what changes nothing."""
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
    """All that a graph gives, whatever it draws from one stream."""
    with keyed(0, device):
        return tree_leaves(graph(*arguments))


def _turned(recorded: GraphModule) -> GraphModule:
    """(a b)^T written as b^T a^T: a gradient then lies in memory as its weight does and is not copied."""
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
