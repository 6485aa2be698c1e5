"""Every option of a Trainer has a meaning that the docs tell, or is refused before anything trains."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.plugins import HalfPrecision
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.trainer_options import check_limits, check_options
from mmkd.data import Samples
from mmkd.data.loading import EvaluationLoader
from mmkd.data.reader import Reader
from mmkd.federated import FedAvg
from mmkd.knowledge import SharedLogits
from mmkd.schedule import Schedule
from mmkd.topology import Star
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, TinyData, fit, fleets, trainer

PAGE = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE, flags=re.MULTILINE)

REFUSED: dict[str, list[Any]] = {
    "devices": [2],
    "strategy": ["ddp"],
    "num_nodes": [2],
    "precision": ["bf16-true", "16-true"],
    "overfit_batches": [1, 0.5],
    "accumulate_grad_batches": [2],
    "gradient_clip_val": [1.0],
    "gradient_clip_algorithm": ["value", "norm"],
    "use_distributed_sampler": [False],
    "sync_batchnorm": [True],
}
"""Options that the page says have no meaning, with values that are refused; and precisions."""


def test_the_page_has_a_row_for_every_option() -> None:
    given = list(inspect.signature(Trainer.__init__).parameters)
    assert sorted(name for name, _ in ROWS) == sorted(set(given) - {"self"})
    assert {meaning for _, meaning in ROWS} == {"usual", "another", "none"}
    assert {name for name, meaning in ROWS if meaning == "none"} == set(REFUSED) - {"precision"}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in REFUSED.items() for v in values])
def test_what_has_no_meaning_is_refused_by_name(name: str, value: Any) -> None:
    devices = 2 if name == "num_nodes" else 1
    run = trainer(**{"devices": devices if name != "devices" else value, name: value})
    # More nodes need more devices, which are named first.
    with pytest.raises(
        ConfigError, match=f"^trainer.{'devices|^trainer.num_nodes' if devices == 2 else name} is "
    ) as error:
        check_options(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plugins": [LightningEnvironment()]}, "trainer.plugins is LightningEnvironment"),
        ({"plugins": [TorchSyncBatchNorm()]}, "trainer.sync_batchnorm is TorchSyncBatchNorm"),
        ({"plugins": [HalfPrecision("bf16-true")]}, "trainer.precision is bf16-true"),
        ({"callbacks": [LearningRateFinder()]}, "LearningRateFinder tries one size or rate"),
        ({"callbacks": [BatchSizeFinder()]}, "BatchSizeFinder tries one size or rate"),
    ],
)
def test_so_are_plugins_and_callbacks(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options(trainer(*options.pop("callbacks", ()), **options))


def test_what_has_a_meaning_passes() -> None:
    check_options(trainer())
    for precision in ("32-true", "64-true", "bf16-mixed"):
        check_options(trainer(precision=precision))
    check_options(trainer(detect_anomaly=True, inference_mode=False, benchmark=True, gradient_clip_val=0))


def test_it_is_refused_before_lightning_says_so() -> None:
    """Which knows of no model.clip."""
    with pytest.raises(ConfigError, match=r"trainer\.gradient_clip_val is 1\.0; .* set model\.clip"):
        fit(Cohort(fleets(), CLASSES), gradient_clip_val=1.0)


def limits(**options: Any) -> Trainer:
    """Rounds of 7 ticks in blocks of 3, 3 and 1, two of them in an epoch."""
    run = trainer(**options)
    check_limits(run, Schedule(local_steps=7, rounds_per_epoch=2, block=3).timetable({"p": 5}))
    return run


@pytest.mark.parametrize(
    "options", [{"limit_train_batches": n} for n in (0, 3, 6, 9, 0.5, 1.0)] + [{"max_steps": 14}]
)
def test_whole_rounds_are_a_limit(options: Any) -> None:
    run = limits(**options)
    assert all(getattr(run, name) == value for name, value in options.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_train_batches": 1}, "is 1, which ends an epoch .* multiple of 3, set schedule.block to 7"),
        ({"limit_train_batches": 4}, "is 4, which ends an epoch within a round"),
        ({"limit_train_batches": 0.8}, "is 0.8, which ends an epoch within a round"),
        ({"max_steps": 23}, "is 23, which ends training within a round of 7 local steps; give 28"),
        ({"max_steps": 6}, "max_steps is 6, .* give 7"),
    ],
)
def test_part_of_a_round_is_none(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        limits(**options)
    assert "\n" not in str(error.value)


def test_a_fast_run_counts_rounds() -> None:
    for rounds in (1, 2):
        run = limits(fast_dev_run=rounds)
        assert (run.limit_train_batches, run.max_steps) == (3 * rounds, 7 * rounds)


class Own(TinyData):
    """Every peer is evaluated on samples of its own, of two batches the one, of one batch the others."""

    def private(self, peer: str, split: str) -> Any:
        if split == "train":
            return super().private(peer, split)
        size = 600 if peer.endswith("0") else 40
        return Samples(self.pool.x[:40].repeat(15, 1)[:size], self.pool.y[:40].repeat(15)[:size])


def own(**options: Any) -> tuple[Cohort, DecentralizedCallback, Trainer]:
    cohort = Cohort({"cameras": Fleet(lambda n: Eye(n), 3)}, CLASSES, vectorize="always")
    knowledge = SharedLogits(samples="all")
    callback = DecentralizedCallback(knowledge, FedAvg(), Star(), Schedule(local_steps=7, block=3))
    return cohort, callback, fit(cohort, callback, Own(batch_size=16), **options)


def test_a_fast_run_has_every_exchange_and_evaluates_everybody() -> None:
    """Weights and what is said of the public set go up and down once, though nobody learns from the last."""
    cohort, callback, run = own(fast_dev_run=True)
    assert run.global_step == 7
    ends = {(e.kind, e.direction) for e in callback.ledger.entries() if e.kind in ("weights", "logits")}
    assert ends == {(kind, way) for kind in ("weights", "logits") for way in ("up", "down")}
    assert set(cohort.metrics) == {"cameras/0", "cameras/1", "cameras/2"}


def test_limits_of_an_evaluation_leave_nobody_out() -> None:
    with pytest.raises(ConfigError, match=r"limit_val_batches is 2, and .* 3 sets of samples.*at least 3"):
        own(limit_val_batches=2, max_epochs=1)
    cohort, *_ = own(limit_val_batches=3, max_epochs=1)
    assert len(cohort.metrics) == 3


def test_a_batch_of_every_data_set_is_read_in_turn() -> None:
    x, y = torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.long)
    data = [(Samples(x, y), ["a"]), (Samples(x[:2], y[:2]), ["b", "c"])]
    readers: Any = [(Reader(samples, "samples", None), peers) for samples, peers in data]
    read = [(batch.peers[0], batch.x.flatten().tolist()) for batch in EvaluationLoader(readers, 2)]
    assert read == [("a", [0, 1]), ("b", [0, 1]), ("a", [2, 3]), ("a", [4])]
