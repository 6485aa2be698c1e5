"""What a cohort's callback does between the hooks of a trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.federated import FedAvg
from mmkd.participation import Sampled
from mmkd.topology import Star
from tests.tiny import CLASSES, fit, fleets, schedule


class Stands(Callback):
    """Where peers stand before, while and after they are evaluated; evaluation may be cut off."""

    def __init__(self, error: type[BaseException] | None) -> None:
        self.error = error
        self.before: dict[str, Tensor] = {}
        self.meanwhile: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Any, cohort: Any, *args: Any) -> None:
        self.before = cohort.state_dict()

    def on_validation_epoch_end(self, trainer: Any, cohort: Any) -> None:
        self.meanwhile = cohort.state_dict()
        if self.error is not None:
            raise self.error

    def on_validation_end(self, trainer: Any, cohort: Any) -> None:
        self.after = cohort.state_dict()


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_who_is_evaluated_at_the_hub_stands_where_it_stood_afterwards(error: Any) -> None:
    """Also where evaluation raises: whoever keeps the cohort finds each peer's own weights."""
    cohort = Cohort(fleets(), CLASSES, vectorize="always")
    work = schedule(local_steps=2, rounds_per_epoch=1)
    callback = DecentralizedCallback(None, FedAvg(), Star(), work, participation=Sampled(count=1))
    stands = Stands(error)
    if error is None:
        fit(cohort, callback, extra=[stands], max_epochs=1)
    else:
        with pytest.raises(error):
            fit(cohort, callback, extra=[stands], max_epochs=1)
        stands.after = cohort.state_dict()
    moved = [n for n, tensor in stands.before.items() if not torch.equal(tensor, stands.meanwhile[n])]
    assert any("cameras/" in n for n in moved)
    first, second = (stands.meanwhile[f"peers.cameras/{i}.main.weight"] for i in (0, 1))
    assert torch.equal(first, second)
    assert all(torch.equal(tensor, stands.after[n]) for n, tensor in stands.before.items())
