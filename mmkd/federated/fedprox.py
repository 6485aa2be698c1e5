"""FedProx (Li et al. 2020): F_k(y) + mu/2 |y - x|^2 locally, FedAvg between rounds."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor

from mmkd.bounds import AtLeastZero, bounded
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.round import Round
from mmkd.functional.trees import Tree


@bounded
class FedProx(FedAvg):
    """Local gradients are g(y) + mu (y - x): the gradient of the *squared* distance.

    Args:
        mu: strength of the pull towards x; 0 is FedAvg.
        **kwargs: of ``FedAvg``.
    """

    corrects: ClassVar[bool] = True

    def __init__(self, mu: AtLeastZero = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mu = mu

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """Gradients with the proximal term, g(y) + mu (y - x)."""
        return proximal(g, round.weights(), self.state["x"], self.mu)


def proximal(g: Tree, y: Tree, x: Tree, mu: float) -> Tree:
    """The sum g + mu (y - x), for the leaves of ``g``, which is changed."""
    for name, leaf in g.items():
        leaf.add_(y[name] - x[name], alpha=mu)
    return g
