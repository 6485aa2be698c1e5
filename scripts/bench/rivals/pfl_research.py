"""The round of ``workload.py`` in Apple's pfl-research."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from workload import BATCH, PEERS, RATE, TAKING_PART, accuracy, net, report, samples


class Model(nn.Module):
    """The model of the workload with the methods that pfl-research calls."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch."""
        logits: Tensor = self.net(x)
        return logits

    def loss(self, x: Tensor, y: Tensor, eval: bool = False) -> Tensor:
        """The loss of a batch."""
        return nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: Tensor, y: Tensor, eval: bool = False) -> dict[str, Any]:
        """No metrics, for nothing is evaluated."""
        return {}


class Rounds(TrainingProcessCallback):
    """Calls a function at the end of every round."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick

    def after_central_iteration(self, metrics: Any, model: Any, *, central_iteration: int) -> Any:
        """Call the function, and go on."""
        self.tick()
        return False, Metrics()


def run(rounds: int, tick: Callable[[], None]) -> float:
    """Train in the simulator of pfl-research, without evaluation."""
    logging.disable(logging.WARNING)
    data = [samples(peer) for peer in range(PEERS)]
    sampler = get_user_sampler("minimize_reuse", list(range(PEERS)))
    users = FederatedDataset(
        lambda peer: PyTorchTensorDataset(tensors=data[peer], user_id=str(peer)), sampler
    )
    module = Model()
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), 1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=10**9,
            train_cohort_size=TAKING_PART,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=BATCH),
        callbacks=[Rounds(tick)],
    )
    return accuracy(module)


if __name__ == "__main__":
    report(run)
