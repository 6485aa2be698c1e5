"""MIME and MIMELite (Karimireddy et al. 2021): local steps that mimic a centralised optimizer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from jaxtyping import Int
from torch import Tensor

from mmkd.federated.base import linear_optimizers
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.round import Round, Setting
from mmkd.functional.mixing import mix
from mmkd.functional.trees import Tree, add_, zeros


class Mime(FedAvg):
    """y <- y - eta U(d, s) with d = g(y; z) - g(x; z) + c on the same batch z, and s frozen in a round.

    c is the mean of the full gradients at x; afterwards s <- V(c, s). ``momentum`` is a moving average,
    U = (1 - b1) d + b1 s and V likewise (torch's SGD momentum is not one); with ``adam`` both moments are
    frozen, U = ((1 - b1) d + b1 m) / (sqrt(v) + eps), without bias correction.

    Args:
        base: the centralised optimizer that is mimicked.
        betas: b1, and b2 for ``adam``.
        eps: of ``adam``.
        lite: d = g(y; z), so that c is not needed by the peers.
        **kwargs: of ``FedAvg``.
    """

    corrects: ClassVar[bool] = True

    def __init__(
        self,
        base: Literal["sgd", "momentum", "adam"] = "momentum",
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-3,
        lite: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base, self.betas, self.eps, self.lite = base, betas, eps, lite

    def check(self, setting: Setting) -> None:
        """Local optimizers must be plain: statistics belong to the hub."""
        super().check(setting)
        linear_optimizers(setting, "Mime", momentum=False)

    def begin(self, x: Tree, round: Round) -> None:
        """The first of two exchanges: full gradients at x."""
        super().begin(x, round)
        heard = self.say("controls", round.full(), round, self.compression)
        self.state["c"] = mix(heard, round.share)
        if not self.lite:
            round.answer("controls", self.state["c"])
        if self.base != "sgd":
            self.state.setdefault("m", zeros(x, 1))
        if self.base == "adam":
            self.state.setdefault("v", zeros(x, 1))

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """U(d, s)."""
        state, first = self.state, self.betas[0]
        if not self.lite:
            add_(g, round.minibatch(state["x"]), -1.0)
            add_(g, state["c"])
        for name, leaf in g.items():
            if self.base != "sgd":
                leaf.mul_(1 - first).add_(state["m"][name], alpha=first)
            if self.base == "adam":
                leaf.div_(state["v"][name].sqrt() + self.eps)
        return g

    def finish(self, y: Tree, round: Round) -> Tree:
        """The average, and statistics that have seen c."""
        x = super().finish(y, round)
        state, (first, second) = self.state, self.betas
        c = state.pop("c")
        if self.base != "sgd":
            state["m"] = {name: first * m + (1 - first) * c[name] for name, m in state["m"].items()}
            round.answer("moments", state["m"])
        if self.base == "adam":
            state["v"] = {n: second * v + (1 - second) * c[n].square() for n, v in state["v"].items()}
            round.answer("moments", state["v"])
        return x
