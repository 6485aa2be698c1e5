"""FedNova (Wang et al. 2020): displacements normalised by how far local steps can carry a peer."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.bounds import AtLeastZero, bounded
from mmkd.federated.base import linear_optimizers
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.fedprox import proximal
from mmkd.federated.round import Round, Setting
from mmkd.functional.displacement import unit_displacement
from mmkd.functional.mixing import mix
from mmkd.functional.trees import Tree, scale_rows_
from mmkd.types import ConfigError

REACH = "reach"
"""Name of the one number that peers send beside the displacement."""


@bounded
class FedNova(FedAvg):
    """x <- x - tau_eff eta sum_k p_k d_k with d_k = (x - y_k) / (eta norm1(a_k)).

    tau_eff eta is the mean of eta norm1(a_k), or with a proximal term of eta tau_k. Removes the bias
    towards peers that take many steps; with equal steps and no proximal term it is FedAvg. Peers send
    -d_k, compressed if wanted, and the one number that tau_eff eta is the mean of.

    Args:
        mu: strength of a proximal term, as in FedProx.
        **kwargs: of ``FedAvg``.
    """

    corrects: ClassVar[bool] = True

    def __init__(self, mu: AtLeastZero = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mu = mu

    def check(self, setting: Setting) -> None:
        """Refuse local optimizers whose steps are not linear in the gradient."""
        super().check(setting)
        linear_optimizers(setting, "FedNova", momentum=True)
        if setting.clipped:
            raise ConfigError("FedNova has no meaning with clipped gradients; leave model.clip out")
        if self.optimizer_state == "keep" and any(
            o.param_groups[0]["momentum"] for o in setting.optimizers.values()
        ):
            raise ConfigError("FedNova needs momentum to begin afresh: set optimizer_state to reset")

    def begin(self, x: Tree, round: Round) -> None:
        """Begin a list of each peer's learning rates, which are noted as they are applied."""
        super().begin(x, round)
        self.state["rates"] = {"": torch.zeros(round.size, round.ticks, dtype=torch.float64)}

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """Gradients with the proximal term, g(y) + mu (y - x)."""
        rates = torch.tensor(round.rates(), dtype=torch.float64)
        self.state["rates"][""][rows, round.step] = rates
        return proximal(g, round.weights(), self.state["x"], self.mu) if self.mu else g

    def displacement(self, y: Tree, round: Round) -> Tree:
        """The -d_k of the peers, 0 for a peer without a local step."""
        units = torch.tensor([self._unit(row, round) for row in round.rows.tolist()], dtype=torch.float64)
        self.state["units"] = {REACH: units[:, None]}
        delta = super().displacement(y, round)
        scale_rows_(delta, torch.where(units != 0, 1 / units, 0.0))
        return delta

    def direction(self, delta: Tree, round: Round) -> Tree:
        """The sum tau_eff eta sum_k p_k (-d_k)."""
        reach = self.state.pop("units")
        rates = self.state.pop("rates")[""].cpu()
        if self.mu:
            reach = {REACH: rates[round.rows].sum(1, keepdim=True)}
        heard = round.send(self.kind, reach)[REACH].flatten().double().cpu()
        return mix(delta, (round.share[0] * heard).sum() * round.share)

    def _unit(self, row: int, round: Round) -> float:
        optimizer = round.optimizer(row)
        if optimizer is None:  # of a peer in another process, which sends it itself
            return 0.0
        options = {
            k: v for k, v in optimizer.param_groups[0].items() if k in ("momentum", "dampening", "nesterov")
        }
        rates = self.state["rates"][""][row, : int(round.steps[row])].tolist()
        return unit_displacement(type(optimizer), options, rates, self.mu)
