"""FedLin (Mitra et al. 2021): linear convergence under heterogeneity, with sparse gradients."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from jaxtyping import Int
from torch import Tensor

from mmkd.bounds import AtLeastZero, bounded
from mmkd.encoding import Compression
from mmkd.federated.base import linear_optimizers
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.round import Round, Setting
from mmkd.functional.mixing import mix
from mmkd.functional.trees import Tree, add, add_, scale_rows_, subtract, zeros
from mmkd.types import ConfigError


@bounded
class FedLin(FedAvg):
    """y <- y - (eta / tau_i) (g_i(y; z) - g_i(x; z) + g), on the same batch z; x is the mean of the y_i.

    g is the mean of the full gradients at x. Peers send sparse ones, h_i = C(rho_i + grad F_i(x)), and
    keep the rest rho_i; the hub answers with g = C(e + mean h_i) and keeps the rest e. With whole batches
    this is the paper's algorithm, else its minibatch form.

    Args:
        gradients: how peers compress their gradients.
        gradient_answers: how the hub compresses its g.
        weights: of ``Aggregation``; uniform, as in the paper, unless said otherwise.
        **kwargs: of ``FedAvg``.
    """

    corrects: ClassVar[bool] = True

    def __init__(
        self,
        gradients: Compression | None = None,
        gradient_answers: Compression | None = None,
        weights: Literal["samples", "uniform"] | dict[str, AtLeastZero] = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(weights=weights, **kwargs)
        self.gradients, self.gradient_answers = gradients, gradient_answers

    def check(self, setting: Setting) -> None:
        """Refuse peers that sit out and local optimizers other than plain SGD."""
        super().check(setting)
        linear_optimizers(setting, "FedLin", momentum=False)
        if setting.sampled:
            raise ConfigError("FedLin needs every peer in every round; leave participation out")

    def begin(self, x: Tree, round: Round) -> None:
        """Exchange gradients at x, the first of two exchanges of a round."""
        super().begin(x, round)
        mean = mix(self.say("controls", round.full(self.state["x"]), round, self.gradients), round.share)
        coder = self.gradient_answers
        if coder is None:
            self.state["g"] = round.answer("controls", mean)
            return
        carried = add(mean, self.state.get("e", zeros(mean, 1)))
        g = self.state["g"] = round.answer("controls", carried, compression=coder)
        if coder.error_feedback:
            self.state["e"] = subtract(carried, g)

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """Corrected gradients (g_i(y) - g_i(x) + g) / tau_i."""
        add_(g, round.shift(self.state["g"], self.state["x"]))
        scale_rows_(g, 1 / round.steps[rows])
        return g
