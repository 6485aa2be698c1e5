"""FedDF (Lin et al. 2020): the hub averages, then distils the ensemble of what it has received."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmkd.bounds import Count, Size, bounded
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.round import Round, Setting
from mmkd.functional.trees import Tree
from mmkd.types import ConfigError


def adam(parameters: Iterable[Tensor]) -> Optimizer:
    """Adam with a learning rate of 1e-3, as in the paper."""
    return torch.optim.Adam(parameters, lr=1e-3)


@bounded
class FedDF(FedAvg):
    """x <- FedAvg's x, then steps of KL(softmax(mean of the peers' logits) || x's) on public samples.

    Public samples need no labels. Peers send weights alone, so bytes are FedAvg's; what the hub computes
    is in the ledger beside what peers do. Normalisation statistics are the peers' average.

    Args:
        steps: of the hub, in every round.
        batch_size: public samples in a step.
        optimizer: the hub's own, made anew every round.
        across: whether the peers of all clusters teach (which may differ in architecture and modality), or
            those of its own.
        **kwargs: of ``FedAvg``.
    """

    distils: ClassVar[bool] = True

    def __init__(
        self,
        *,
        steps: Count = 50,
        batch_size: Size = 64,
        optimizer: Callable[[Iterable[Tensor]], Optimizer] = adam,
        across: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.steps, self.batch_size, self.optimizer, self.across = steps, batch_size, optimizer, across

    def check(self, setting: Setting) -> None:
        """Refuse settings without a hub that gets whole weights."""
        super().check(setting)
        if not setting.hub:
            raise ConfigError("FedDF distils at a hub: choose topology Star")
        if self.compression is not None:
            raise ConfigError("FedDF's teachers are weights as peers have them: leave compression out")
        try:  # it is made anew every round, the first time after all local steps of one
            self.optimizer([torch.zeros(1, requires_grad=True)])
        except ValueError as error:
            raise ConfigError(f"the optimizer of FedDF's hub is impossible: {error}") from error

    def advance(self, x: Tree, delta: Tree, round: Round) -> Tree:
        """FedAvg's step, then distillation."""
        averaged = super().advance(x, delta, round)
        return round.distil(
            averaged,
            steps=self.steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            across=self.across,
        )
