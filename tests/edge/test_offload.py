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
from mmkd.data.samples import Samples
from mmkd.edge.comparing import compared
from mmkd.edge.policies import POLICIES, CostAware, Entropy, Learned, Margin, MaxProbability, Policy, Requests
from mmkd.edge.showing import picture, table, write
from mmkd.edge.trained import Trained, trained
from mmkd.types import NO_LABEL, ConfigError
from tests.tiny import CLASSES, Ear, Eye, TinyData, TinyDataDouble, fit, schedule


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
    found = compared(run, ["eyes/0", "ears/0"], ["eyes/1"], over=["1000,500,0.25", "ears/*=100,50,1"])
    right: dict[str, Any] = {}
    for peer in ("eyes/0", "ears/0", "eyes/1"):
        batch = run.data.reader(peer, "test").batch(torch.arange(100), 0)
        student: Any = run.student(peer)
        right[peer] = (student(batch.x).argmax(1) == batch.y).double()
    alone = (right["eyes/0"] + right["ears/0"]).mean() / 2
    assert (found.alone, found.asked) == pytest.approx((float(alone), float(right["eyes/1"].mean())))
    for curves in found.curves.values():
        for curve in curves.values():
            assert (float(curve.won[0]), float(curve.won[-1])) == pytest.approx(
                (0, found.asked - found.alone)
            )
            assert curves["oracle"].area >= curve.area - 1e-12
    # An eye sends eight floats, an ear an id alone; three floats come back.
    assert found.whole["bytes"] == pytest.approx((8 * 4 + 8) / 2 + 3 * 4)
    links = ((0.25 + 32 / 1000 + 12 / 500) + (1 + 8 / 100 + 12 / 50)) / 2
    assert 1e-6 < found.whole["seconds"] - links < 0.1  # in which the other thinks
    assert 0 < found.seconds < 0.1
    asks = found.curves["requests"]["random"].at(0.5)
    assert asks == pytest.approx((found.asked - found.alone) / 2)
    # By bytes the ear comes first, by seconds the eye, whose link is the faster.
    by = {unit: curves["cost-aware"].spent.diff() for unit, curves in found.curves.items()}
    assert float(by["bytes"][0]) < float(by["bytes"][-1])
    text = table(found._replace(kept=found.kept[:0]))
    assert "2 devices are right about" in text
    assert "Accuracy by latency" in text
    write(found, tmp_path)
    with (tmp_path / "offloading.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(POLICIES) * 101
    assert float(rows[0]["accuracy"]) == pytest.approx(found.alone, abs=1e-6)
    assert (tmp_path / "offloading.png").stat().st_size > 10_000
    axes = picture(found).axes
    assert [a.get_xlabel().split()[0] for a in axes] == ["requests", "bytes", "latency"]
    ends = [1000 * found.seconds, 1000 * (found.seconds + found.whole["seconds"])]
    assert [float(x) for x in axes[2].lines[0].get_xdata()][::100] == pytest.approx(ends)


def test_a_picture_of_several_runs_has_their_mean(run: Trained) -> None:
    """Of three runs that differ by a hundredth and two in how often devices are right alone."""
    found = compared(run, ["eyes/0"], ["eyes/1"])
    drawn = picture(*(found._replace(alone=alone) for alone in (0.5, 0.51, 0.55))).axes[0]
    label = "max probability"
    (line,) = (one for one in drawn.lines if one.get_label() == label)
    assert float(line.get_ydata()[0]) == pytest.approx(52)
    assert float(line.get_ydata()[-1]) == pytest.approx(52 + 100 * (found.asked - found.alone))
    bands = [band.get_paths()[0].vertices[:, 1] for band in drawn.collections]
    assert all(50 in band.round(6) and 55 in band.round(6) for band in bands)  # the range of so few
    assert len(bands) == 2


def test_several_who_are_asked_answer_together_and_cost_more(run: Trained) -> None:
    one, two = compared(run, ["eyes/0"], ["eyes/1"]), compared(run, ["eyes/0"], ["eyes/1", "ears/0"])
    assert (one.whole["bytes"], two.whole["bytes"]) == (8 * 4 + 12, 8 * 4 + 8 + 2 * 12)
    with pytest.raises(ConfigError, match="a device asks somebody else"):
        compared(run, ["eyes/0"], ["eyes/0"])
    with pytest.raises(ConfigError, match="a device asks somebody else"):
        compared(run, None, ["eyes/0", "eyes/1", "ears/0"])
    with pytest.raises(ConfigError, match="there is no peer 'eye/0'; did you mean eyes/0"):
        compared(run, None, ["eye/0"])


def test_a_run_in_double_precision_is_compared_in_single() -> None:
    """A device has floats; samples are made such, as weights are."""
    fleets = {"eyes": Fleet(lambda n: Eye(n, drop=0.0), 2)}
    cohort, data = Cohort(fleets, CLASSES, vectorize="never"), TinyDataDouble(batch_size=16)
    fit(cohort.double(), DecentralizedCallback(schedule=schedule(rounds_per_epoch=1)), data, max_epochs=1)
    found = compared(Trained("run", "last.ckpt", cohort, data), ["eyes/0"], ["eyes/1"])
    batch, answers = (
        data.reader("eyes/0", "test").batch(torch.arange(100), 0),
        cohort.student("eyes/1").eval(),
    )
    assert batch.x.dtype == torch.float64
    assert found.asked == pytest.approx(float((answers(batch.x).argmax(1) == batch.y).double().mean()))


@pytest.mark.parametrize("head", ["main", "last", "best", "ensemble"])
def test_a_student_answers_by_the_head_that_it_was_judged_by(head: Any) -> None:
    cohort = Cohort({"eyes": Fleet(lambda n: Eye(n, heads=2), 1)}, CLASSES, vectorize="never", head=head)
    run, x = Trained("run", "last.ckpt", cohort, TinyData(), {"eyes/0": 1}), torch.randn(5, 8)
    if head == "ensemble":
        with pytest.raises(ConfigError, match=r"was judged by the mean of its heads, .* --model\.head=best"):
            run.student("eyes/0")
        return
    said = cohort.student("eyes/0").eval().predict(x)
    every = {"main": said.logits, "best": said.auxiliary[0], "last": said.auxiliary[1]}
    student: Any = run.student("eyes/0")
    torch.testing.assert_close(student(x), every[head])
    torch.testing.assert_close(student.predict(x).logits, every[head])


def test_peers_that_have_diverged_are_named(run: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(peer: str) -> Any:
        student: Any = Trained.student(run, peer)
        if peer == "eyes/1":
            student.main.bias.data[0] = torch.inf
        return student

    class Broken(Trained):
        student = staticmethod(broken)  # type: ignore[assignment]

    with pytest.raises(
        ConfigError, match=r"the student of 'eyes/[01]' says of val samples what is no number"
    ):
        compared(Broken(*run), ["eyes/0"], ["eyes/1"])


class Owned(TinyData):
    """Everybody has test and validation samples of its own."""

    def private(self, peer: str, split: str) -> Any:
        whole: Any = super().private(peer, split)
        if split == "train":
            return whole
        place = list(self.peers).index(peer)
        return whole.subset(range(30 * place, 30 * place + 30))


def test_a_sample_goes_to_who_reads_its_modality(run: Trained) -> None:
    """Though the other has never seen it; what another modality perceived is nobody else's to know."""
    data: Any = Owned(batch_size=16)
    data.assign(*run.cohort.roster)
    data.setup("test")
    found = compared(run._replace(data=data), ["eyes/0"], ["eyes/1"])
    own = data.reader("eyes/0", "test").batch(torch.arange(30), 0)
    answers: Any = run.student("eyes/1")
    assert found.asked == pytest.approx(float((answers(own.x).argmax(1) == own.y).double().mean()))
    with pytest.raises(
        ConfigError, match="those who are asked have no sample with a label that 'ears/0' has"
    ):
        compared(run._replace(data=data), ["ears/0"], ["eyes/1"])


class Lacking(TinyData):
    """A data set of which one peer has nothing of one split, or no labels in it."""

    def __init__(self, peer: str, split: str, left: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lacks, self.left = (peer, split), left

    def private(self, peer: str, split: str) -> Any:
        whole: Any = super().private(peer, split)
        if (peer, split) != self.lacks:
            return whole
        return Samples(whole.x, torch.full_like(whole.y, NO_LABEL)) if self.left == "x" else whole.subset([])


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        (("eyes/0", "val", "x"), "peer 'eyes/0' has no labelled validation samples to calibrate on"),
        (("eyes/1", "val", "x"), "peer 'eyes/1' has no labelled validation samples to calibrate on"),
        (("eyes/0", "val", ""), "peer 'eyes/0' has no validation samples"),
        (("eyes/0", "test", ""), "peer 'eyes/0' has no test samples"),
        (("eyes/0", "test", "x"), "those who are asked have no sample with a label that 'eyes/0' has"),
    ],
)
def test_peers_without_samples_are_named(run: Trained, lacks: tuple[str, str, str], said: str) -> None:
    data: Any = Lacking(*lacks, batch_size=16)
    data.assign(*run.cohort.roster)
    data.setup("test")
    with pytest.raises(ConfigError, match=said):
        compared(run._replace(data=data), ["eyes/0"], ["eyes/1"])


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder of a run: there is no config\.yaml"):
        trained(tmp_path, None, [])
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="has no checkpoints: name one with --ckpt_path"):
        trained(tmp_path, None, [])
