"""docs/labels.md is run as it is written, and its metrics are what a configuration makes of them."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torchmetrics import Metric

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.knowledge import SharedTags, SharedValues
from mmkd.schedule import Schedule
from mmkd.students import Regressor, Tagger
from tests.tiny import trainer

PAGE = (Path(__file__).parents[2] / "docs" / "labels.md").read_text()


def test_the_page_runs_and_a_gauge_learns_lengths() -> None:
    """It ends with errors smaller than those of the mean, for which R^2 is 0."""
    page: dict[str, object] = {"__name__": "labels"}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/labels.md", "exec"), page)
    gauge: Any = page["Gauge"]
    lengths: Any = page["Lengths"]
    adam = partial(torch.optim.Adam, lr=0.01)
    cohort = Cohort({"v": Fleet(lambda n: gauge(n, width=16, optimizer=adam), 2)}, 1, vectorize="always")
    callback = DecentralizedCallback(schedule=Schedule(local_steps=200))
    trainer(callback, max_epochs=1).fit(cohort, datamodule=lengths(batch_size=16))
    assert all(metrics["r2"] > 0 for metrics in cohort.metrics.values())


def test_its_metrics_are_made_by_a_configuration() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--metrics", type=dict[str, Metric] | None)
    found = parser.instantiate_classes(parser.parse_object(yaml.safe_load(block)["model"])).metrics
    assert {name: type(metric).__name__ for name, metric in found.items()} == {
        "area": "MulticlassAUROC",
        "macro_f1": "MulticlassF1Score",
    }


@pytest.mark.parametrize("named", [Tagger, Regressor, SharedTags, SharedValues])
def test_the_table_names_what_there_is(named: type) -> None:
    assert f"`{named.__name__}`" in PAGE
