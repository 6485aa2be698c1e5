"""MIME and MIMELite (Karimireddy et al. 2021): local steps that mimic a centralised optimizer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.bounds import AtLeastZero, BelowOne, bounded
from mmkd.federated.base import linear_optimizers
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.round import Round, Setting
from mmkd.functional.mixing import mix
from mmkd.functional.trees import Tree, add_, zeros


@bounded
class Mime(FedAvg):
    """y <- y - eta U(d, s) with d = g(y; z) - g(x; z) + c on the same batch z, and s frozen in a round.

    c is the mean of the full gradients at x; afterwards s <- V(c, s). ``momentum`` is a moving average,
    U = (1 - b1) d + b1 s and V likewise (torch's SGD momentum is not one); with ``adam`` both moments are
    frozen, U = ((1 - b1) d + b1 m) / (sqrt(v) + eps), without bias correction.

    Args:
        base: the centralised optimizer that is mimicked.
        betas: b1, and b2 for ``adam``.
        eps: of ``adam``.
        v0: where ``adam``'s second moment begins; c^2 of the first round if left out, because from 0 the
            first steps would be 1 / eps times too long.
        lite: d = g(y; z), so that c is not needed by the peers.
        **kwargs: of ``FedAvg``.
    """

    corrects: ClassVar[bool] = True

    def __init__(
        self,
        base: Literal["sgd", "momentum", "adam"] = "momentum",
        *,
        betas: tuple[BelowOne, BelowOne] = (0.9, 0.99),
        eps: AtLeastZero = 1e-3,
        v0: AtLeastZero | None = None,
        lite: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base, self.betas, self.eps, self.v0, self.lite = base, betas, eps, v0, lite

    def check(self, setting: Setting) -> None:
        """Refuse local optimizers other than plain SGD: statistics s belong to the hub."""
        super().check(setting)
        linear_optimizers(setting, "Mime", momentum=False)

    def begin(self, x: Tree, round: Round) -> None:
        """Exchange full gradients at x, the first of two exchanges of a round."""
        super().begin(x, round)
        state = self.state
        heard = self.say("controls", round.full(state["x"]), round, self.compression)
        c = state["c"] = mix(heard, round.share)
        known = state["known c"] = c if self.lite else self.tell("controls", c, round)
        if self.base != "sgd" and "m" not in state:
            state["m"] = state["known m"] = zeros(x, 1)
        if self.base == "adam" and "v" not in state:
            start = self.v0
            state["v"] = {
                name: leaf.square() if start is None else torch.full_like(leaf, start)
                for name, leaf in known.items()
            }
            if self.lite and start is None:  # otherwise peers can compute it
                state["v"] = round.answer("second moments", state["v"])
        if self.base != "sgd":  # peers that come back have heard them anew
            state["known m"] = round.heard("moments", state["known m"])
        if self.base == "adam":
            state["v"] = round.heard("second moments", state["v"])

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """Steps U(d, s), in place of gradients."""
        state, first = self.state, self.betas[0]
        if not self.lite:
            add_(g, round.shift(state["known c"], state["x"]))
        for name, leaf in g.items():
            if self.base != "sgd":
                leaf.mul_(1 - first).add_(state["known m"][name], alpha=first)
            if self.base == "adam":
                leaf.div_(state["v"][name].sqrt() + self.eps)
        return g

    def finish(self, y: Tree, round: Round) -> Tree:
        """The average of weights; afterwards s <- V(c, s)."""
        x = super().finish(y, round)
        state, (first, second) = self.state, self.betas
        c = state.pop("c")
        if self.base != "sgd":
            state["m"] = {name: first * m + (1 - first) * c[name] for name, m in state["m"].items()}
            state["known m"] = self.tell("moments", state["m"], round)
        if self.base == "adam":  # never compressed, because peers divide by its square root
            state["v"] = {n: second * v + (1 - second) * c[n].square() for n, v in state["v"].items()}
            state["v"] = round.answer("second moments", state["v"])
        return x
