"""When devices ask: policies by hand, what is fitted on validation samples, and the table of a small run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.edge.comparing import compared
from mmkd.edge.policies import POLICIES, CostAware, Entropy, Learned, Margin, MaxProbability, Policy, Requests
from mmkd.edge.showing import picture, table, write
from mmkd.edge.trained import Trained, trained
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Ear, Eye, TinyData, fit, schedule


def requests(
    logits: Tensor, right: list[bool], answered: list[bool], cost: list[float] | None = None
) -> Requests:
    size = len(right)
    return Requests(
        logits, torch.tensor(right), torch.tensor(answered), torch.tensor(cost or [1.0] * size), [0] * size
    )


def order(policy: Policy, about: Requests) -> list[int]:
    wants: list[int] = policy.wants(about).argsort(descending=True).tolist()
    return wants


def test_policies_by_hand() -> None:
    """Where the three differ: one class and much beside it, two alike, and all but sure."""
    p = torch.tensor([[0.50, 0.25, 0.25], [0.52, 0.48, 0.00001], [0.90, 0.05, 0.05]])
    about = requests(p.log(), [True] * 3, [True] * 3)
    assert order(MaxProbability(), about) == [0, 1, 2]
    assert order(Margin(), about) == [1, 0, 2]
    assert order(Entropy(), about) == [0, 1, 2]
    torch.testing.assert_close(Margin().wants(about), torch.tensor([0.75, 0.96, 0.15]))
    torch.testing.assert_close(MaxProbability().wants(about), 1 - p.amax(1) / p.sum(1), rtol=1e-4, atol=0)
    cheap = about._replace(cost=torch.tensor([10.0, 1.0, 1.0]))
    assert order(CostAware(MaxProbability()), cheap) == [1, 2, 0]
    assert order(POLICIES["oracle"](), requests(p.log(), [False, True, True], [True, False, True])) == [
        0,
        2,
        1,
    ]


def test_learned_deferral_knows_what_confidence_does_not() -> None:
    """The device is always wrong about what it calls class 0, and as sure of it; nobody mends class 1."""
    torch.manual_seed(0)
    named = torch.arange(300) % 3
    logits = 2 * torch.nn.functional.one_hot(named, 3) + 0.1 * torch.randn(300, 3)
    about = requests(logits, (named != 0).tolist(), [True] * 300)
    policy = Learned()
    policy.fit(about)
    assert bool((policy.wants(about)[named == 0] > 0.9).all())
    assert bool((policy.wants(about)[named != 0] < 0.1).all())
    for right, answered, wanted in ((True, True, 0), (False, True, 1), (True, False, -1)):  # always so
        policy.fit(requests(logits, [right] * 300, [answered] * 300))
        assert policy.wants(about).unique().tolist() == [wanted]


@pytest.fixture(scope="module")
def run() -> Trained:
    """Two eyes and an ear of few steps."""
    fleets = {"eyes": Fleet(lambda n: Eye(n, drop=0.0), 2), "ears": Fleet(lambda n: Ear(n, drop=0.0), 1)}
    cohort, data = Cohort(fleets, CLASSES, vectorize="never"), TinyData(batch_size=16)
    fit(cohort, DecentralizedCallback(schedule=schedule(rounds_per_epoch=1)), data, max_epochs=1)
    return Trained("run", "last.ckpt", cohort, data)


def test_a_run_is_compared(run: Trained, tmp_path: Path) -> None:
    """What is said of nobody and of all asked is counted from the students' own predictions."""
    found = compared(run, ["eyes/0", "ears/0"], ["eyes/1"])
    right: dict[str, Any] = {}
    for peer in ("eyes/0", "ears/0", "eyes/1"):
        batch = run.data.reader(peer, "test").batch(torch.arange(100), 0)
        student: Any = run.student(peer)
        right[peer] = (student(batch.x).argmax(1) == batch.y).double()
    alone = (right["eyes/0"] + right["ears/0"]).mean() / 2
    assert (found.alone, found.asked) == pytest.approx((float(alone), float(right["eyes/1"].mean())))
    for curves in (found.requests, found.bytes):
        for curve in curves.values():
            assert (float(curve.won[0]), float(curve.won[-1])) == pytest.approx(
                (0, found.asked - found.alone)
            )
            assert curves["oracle"].area >= curve.area - 1e-12
    # An eye sends eight floats, an ear an id alone; three floats come back.
    assert found.whole == pytest.approx((8 * 4 + 8) / 2 + 3 * 4)
    asks = found.requests["random"].at(0.5)
    assert asks == pytest.approx((found.asked - found.alone) / 2)
    assert "2 devices are right about" in table(found)
    write(found, tmp_path)
    with (tmp_path / "offloading.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(POLICIES) * 101
    assert float(rows[0]["accuracy"]) == pytest.approx(found.alone, abs=1e-6)
    assert (tmp_path / "offloading.png").stat().st_size > 10_000
    assert [axes.get_xlabel().split()[0] for axes in picture(found).axes] == ["requests", "bytes"]


def test_several_who_are_asked_answer_together_and_cost_more(run: Trained) -> None:
    one, two = compared(run, ["eyes/0"], ["eyes/1"]), compared(run, ["eyes/0"], ["eyes/1", "ears/0"])
    assert (one.whole, two.whole) == (8 * 4 + 12, 8 * 4 + 8 + 2 * 12)
    with pytest.raises(ConfigError, match="a device asks somebody else"):
        compared(run, ["eyes/0"], ["eyes/0"])
    with pytest.raises(ConfigError, match="a device asks somebody else"):
        compared(run, None, ["eyes/0", "eyes/1", "ears/0"])
    with pytest.raises(ConfigError, match="there is no peer 'eye/0'; did you mean eyes/0"):
        compared(run, None, ["eye/0"])


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder of a run: there is no config\.yaml"):
        trained(tmp_path, None, [])
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="has no checkpoints: name one with --ckpt_path"):
        trained(tmp_path, None, [])
