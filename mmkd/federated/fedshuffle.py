"""FedShuffle (Horvath et al. 2022): local epochs, with steps scaled by a peer's number of batches."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor

from mmkd.bounds import Share, bounded
from mmkd.federated.base import linear_optimizers
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.round import Round, Setting
from mmkd.functional.mixing import mix
from mmkd.functional.trees import Tree, add, add_, scale_rows_, zeros
from mmkd.types import ConfigError


@bounded
class FedShuffle(FedAvg):
    """Local rates eta_i = eta / (epochs batches_i); x <- x + eta_g sum_S (p_i / q_i) Delta_i.

    A batch counts by its size, so a whole epoch moves a peer by eta times a mean gradient, however large
    its data. Weights are **not** renormalised over those who take part: dividing by q_i, the chance to do so,
    makes the sum unbiased. Peers must pass over their data (``schedule.local_epochs``).

    Args:
        momentum: a of the variance reduction v = g(y) + a (m - g(x)),
            m <- sum_S (p_i / q_i) grad F_i(x) + a (m - sum_S (p_i / q_i) grad F_i(x_prev)); None for none.
        **kwargs: of ``FedAvg``.
    """

    corrects: ClassVar[bool] = True
    renormalises: ClassVar[bool] = False

    def __init__(self, momentum: Share | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum

    def check(self, setting: Setting) -> None:
        """Refuse optimizers other than plain SGD, work that is not whole epochs, and unknown chances."""
        super().check(setting)
        linear_optimizers(setting, "FedShuffle", momentum=False)
        if not setting.whole_epochs:
            raise ConfigError("FedShuffle passes over all local data: count rounds in schedule.local_epochs")
        if not setting.drawn:
            raise ConfigError("FedShuffle divides by the chance to take part, which a trace does not have")

    def begin(self, x: Tree, round: Round) -> None:
        """With variance reduction, exchange gradients at x: the first of two exchanges of a round."""
        before, heard_before = self.state.get("x"), self.state.get("present")
        super().begin(x, round)
        if self.momentum is None:
            return
        told, m = round.full(self.state["x"]), self.state.get("m", zeros(x, 1))
        if before is not None and heard_before is not None:
            old = set(heard_before[""].tolist())
            newcomers = [row for row in round.rows.tolist() if row not in old]
            before = round.answer("weights", before, rows=newcomers)
            told = add(told, round.full(before), -self.momentum)
            m = {name: self.momentum * leaf for name, leaf in m.items()}
        self.state["present"] = {"": round.rows}
        heard = self.say("controls", told, round, self.compression)
        self.state["m"] = add(self.direction(heard, round), m)
        self.state["known m"] = self.tell("controls", self.state["m"], round)

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """The gradient or v, times the part of the round's samples that this batch is."""
        if self.momentum:
            add_(g, round.shift(self.state["known m"], self.state["x"]), self.momentum)
        scale_rows_(g, round.portions())
        return g

    def direction(self, delta: Tree, round: Round) -> Tree:
        """The sum over those who take part, sum_S (p_i / q_i) delta_i."""
        return mix(delta, (round.p / round.q)[round.rows][None])
