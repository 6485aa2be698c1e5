"""SCAFFOLD (Karimireddy et al. 2020, algorithm 1): control variates against client drift."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from jaxtyping import Int
from torch import Tensor

from mmkd.bounds import AtLeastZero, bounded
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.round import Round
from mmkd.functional.mixing import mix
from mmkd.functional.trees import Tree, add, add_, pick, put, scale_rows_, subtract, zeros


@bounded
class Scaffold(FedAvg):
    """Local gradients are g(y) - c_i + c, where c is the p-weighted mean of **all** c_i.

    After a round c_i becomes the peer's gradient: over all its samples at x (option I of the paper), or
    the mean of its raw local gradients. For SGD the latter equals the paper's option II,
    c_i - c + (x - y)/(tau eta), and unlike that formula it holds for every local optimizer and schedule.

    Args:
        controls: ``full`` (option I) or ``mean`` (option II).
        weights: of ``Aggregation``; uniform, as in the paper, unless said otherwise.
        **kwargs: of ``FedAvg``.
    """

    corrects: ClassVar[bool] = True

    def __init__(
        self,
        controls: Literal["full", "mean"] = "mean",
        weights: Literal["samples", "uniform"] | dict[str, AtLeastZero] = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(weights=weights, **kwargs)
        self.controls = controls

    def begin(self, x: Tree, round: Round) -> None:
        """Begin with controls of zero in the first round; option I computes its new controls here."""
        super().begin(x, round)
        if "c" not in self.state:
            self.state |= {"c": zeros(x, 1), "c_i": zeros(x, round.size)}
        state = self.state
        fresh = state["fresh"] = zeros(x, round.size)
        if self.controls == "full":
            put(fresh, round.rows, round.full(state["x"]))
        told = round.heard("controls", state["c"])
        state["offset"] = {name: c - state["c_i"][name] for name, c in told.items()}

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """Corrected gradients g(y) - c_i + c."""
        state = self.state
        if self.controls == "mean":
            for name, leaf in g.items():
                if len(rows) == round.size:
                    state["fresh"][name].add_(leaf)
                else:
                    state["fresh"][name].index_add_(0, rows.to(leaf.device), leaf)
        offset = pick({name: state["offset"][name] for name in g}, rows)
        # Option I's controls are private gradients; the mean ones contain what knowledge adds.
        add_(g, round.scale(offset) if self.controls == "full" else offset)
        return g

    def finish(self, y: Tree, round: Round) -> Tree:
        """Weights and c of the next round; c is weighted by p over **all** peers, also those that sat out."""
        rows, state = round.rows, self.state
        old, new = pick(state["c_i"], rows), pick(state.pop("fresh"), rows)
        if self.controls == "mean":
            scale_rows_(new, 1 / round.steps[rows])
        change = subtract(new, old)
        del state["offset"]
        # c_i is what was sent, so the next change contains what compression left out.
        heard = round.send("controls", change, self.compression)
        put(state["c_i"], rows, add(old, heard))
        state["c"] = add(state["c"], mix(heard, round.p[rows][None]))
        x = super().finish(y, round)
        self.tell("controls", state["c"], round)
        return x
