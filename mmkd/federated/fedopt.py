"""FedAdagrad, FedAdam and FedYogi (Reddi et al. 2021, algorithm 2): an adaptive step of the hub."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from mmkd.bounds import BelowOne, Positive, bounded
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.round import Round
from mmkd.functional.trees import Tree, zeros
from mmkd.types import ConfigError


@bounded
class FedOpt(FedAvg):
    """m <- b1 m + (1 - b1) Delta; x <- x + eta_g m / (sqrt(v) + tau), without bias correction.

    Args:
        server_lr: eta_g.
        betas: b1, and b2 where it has a meaning.
        tau: degree of adaptivity; v begins at tau^2.
        **kwargs: of ``FedAvg``, but for ``server_momentum``.
    """

    def __init__(
        self,
        *,
        server_lr: Positive = 0.1,
        betas: tuple[BelowOne, BelowOne] = (0.9, 0.99),
        tau: Positive = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(server_lr=server_lr, **kwargs)
        if self.server_momentum:
            raise ConfigError("aggregation.betas hold the hub's momentum here; leave server_momentum out")
        self.betas, self.tau = betas, tau

    def advance(self, x: Tree, delta: Tree, round: Round) -> Tree:
        """The hub's new weights after one adaptive step."""
        first = self.betas[0]
        m = self.state.setdefault("m", zeros(x, 1))
        v = self.state.setdefault("v", {n: leaf + self.tau**2 for n, leaf in zeros(x, 1).items()})
        moved = {}
        for name, d in delta.items():
            m[name] = first * m[name] + (1 - first) * d
            v[name] = self.second(v[name], d.square())
            moved[name] = x[name] + self.step(round) * m[name] / (v[name].sqrt() + self.tau)
        return moved

    @abstractmethod
    def second(self, v: Tensor, square: Tensor) -> Tensor:
        """The next v, from the square of Delta."""


class FedAdagrad(FedOpt):
    """v <- v + Delta^2."""

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        """The sum of squares of Delta."""
        return v + square


class FedAdam(FedOpt):
    """v <- b2 v + (1 - b2) Delta^2."""

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        """A moving average of the squares of Delta."""
        return self.betas[1] * v + (1 - self.betas[1]) * square


class FedYogi(FedOpt):
    """v <- v - (1 - b2) Delta^2 sign(v - Delta^2)."""

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        """A step towards Delta^2 that does not grow with the distance to it."""
        return v - (1 - self.betas[1]) * square * (v - square).sign()
