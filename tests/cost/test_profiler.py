"""Where a step goes: every moment of an epoch belongs to one part."""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import pytest

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.cost import profiler
from mmkd.cost.profiler import StepProfiler
from mmkd.federated import FedAvg
from mmkd.knowledge import SharedLogits
from tests.tiny import CLASSES, fit, fleets, schedule


def test_what_is_inside_another_part_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()  # a second passes at every start and stop
    monkeypatch.setattr(profiler.time, "perf_counter", lambda: next(clock))
    seen = StepProfiler()
    for name in ("setup", "/setup", "run_training_epoch", "[x].train_dataloader_next", "/", "run_training_batch",
                 "[mmkd]forward", "[mmkd]backward", "/", "/", "[mmkd]optimizer", "/", "/",
                 "save_checkpoint", "/", "/", "teardown", "/"):  # fmt: skip
        opened: list[str] = seen.__dict__.setdefault("names", [])
        if name.startswith("/"):
            seen.stop(opened.pop())
        else:
            opened.append(name)
            seen.start(name)
    # Between the epoch's start and stop thirteen seconds pass.
    assert seen.seconds == {
        "Lightning": 7, "data": 1, "forward": 2, "backward": 1, "optimizer": 1, "checkpoints": 1,
    }  # fmt: skip
    assert seen.ticks == 1
    assert re.search(r"Lightning +7000\.000 +53\.8%", seen.summary())


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_a_run_is_told_apart(vectorize: Any) -> None:
    seen = StepProfiler()
    callback = DecentralizedCallback(SharedLogits(), FedAvg(), schedule=schedule())
    run = fit(Cohort(fleets(), CLASSES, vectorize=vectorize), callback, profiler=seen)
    assert seen.ticks == run.global_step == 42
    parts = {"data", "knowledge, its forward", "forward", "backward", "optimizer", "exchange", "validation"}
    assert parts | {"Lightning"} <= set(seen.seconds)
    assert all(seconds > 0 for seconds in seen.seconds.values())


def test_nothing_is_said_of_nothing() -> None:
    assert StepProfiler().summary() == ""
