"""What peers learn from one another in local steps, and of whom that makes no sense."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.coordination.method import Method
from mmkd.coordination.refusals import check_hearing, check_lessons
from mmkd.data.samples import PublicSamples
from mmkd.federated import Gossip
from mmkd.knowledge import (
    Consensus,
    Heard,
    MeanLogit,
    MeanProbability,
    MostConfident,
    SharedLogits,
    Statement,
    Target,
)
from mmkd.schedule import Schedule
from mmkd.topology import Complete, ErdosRenyi, RandomRegular, Ring, Star
from mmkd.types import Classes, ConfigError
from tests.grids import each_once
from tests.tiny import CLASSES, TinyData, fit, fleets, run, schedule

ROUNDS, TICKS = 2, 14  # one epoch of two rounds of seven ticks
PUBLIC = 100


def test_a_run_that_ends_before_anything_is_taught_is_refused() -> None:
    """Two rounds of seven ticks: what is exchanged after the last of them teaches nobody."""
    knowledge = SharedLogits(samples="all")
    with pytest.raises(
        ConfigError, match=r"exchanged every 14 ticks and the run lasts 14, so nothing is taught"
    ):
        run(knowledge, None, Star(), schedule={"knowledge_every": 14})
    run(knowledge, None, Star(), schedule={"knowledge_every": 13})
    check_lessons(SharedLogits(pretrain=14), None, 14)
    with pytest.raises(ConfigError, match="pretrain lasts 15 ticks, and the run 14"):
        check_lessons(SharedLogits(pretrain=15), None, 14)


PEERS = {f"cameras/{i}": "image" for i in range(3)}


def settings(knowledge: Any, aggregation: Any, topology: Any, schedule: Schedule | None = None) -> Method:
    return DecentralizedCallback(knowledge, aggregation, topology, schedule).method


def test_a_graph_in_which_nobody_hears_anybody_is_refused() -> None:
    """For knowledge and for weights; one of ten rounds in which somebody hears somebody is enough."""
    for knowledge, aggregation in ((SharedLogits(), None), (None, Gossip())):
        for graph in (ErdosRenyi(0.0), ErdosRenyi(0.0, every=1), RandomRegular(0)):
            with pytest.raises(ConfigError, match=r"nobody hears anybody over"):
                settings(knowledge, aggregation, graph).check_settings(PEERS)
    with pytest.raises(ConfigError, match="knowledge_every needs knowledge"):
        settings(None, Gossip(), Ring(), Schedule(knowledge_every=2)).check_settings(PEERS)
    settings(SharedLogits(), Gossip(), Ring(), Schedule(knowledge_every=2)).check_settings(PEERS)
    check_hearing(ErdosRenyi(0.5, every=1), [["a", "b"]])  # in one of ten rounds but for one seed in 1,024
    check_hearing(Ring(), [["a"]])
    with pytest.raises(ConfigError, match=r"no cluster has two peers: set aggregation.among to all"):
        check_hearing(Star(), [["a"], ["b"]])


@each_once(vectorize=["never", "always"], samples=["batch", "all"])
def test_public_forwards_leave_statistics_alone(vectorize: Any, samples: Any) -> None:
    """BatchNorm counts private batches only: one a local step."""
    cohort, _ = run(SharedLogits(samples=samples), None, Complete(), vectorize=vectorize)
    for name in cohort.names:
        assert int(cohort.student(name).net[1].num_batches_tracked) == TICKS


def test_missing_views_neither_speak_nor_listen() -> None:
    """Microphones hear half of the public set: they say that half, and the consensus is full."""

    class Half(TinyData):
        def public(self, split: str) -> Any:
            even = torch.arange(PUBLIC) % 2 == 0
            views = {"image": self.public_x, "audio": self.public_x}
            return PublicSamples(views, {"audio": even})

    _, callback = run(
        SharedLogits(samples="all"), None, Star(), data=Half(batch_size=16), schedule={"knowledge_every": 10}
    )
    # One exchange: 3 cameras say 100 rows, 2 microphones 50 rows and 13 bytes of bit mask.
    up = 3 * PUBLIC * 12 + 2 * (PUBLIC // 2 * 12 + 13)
    assert callback.ledger.by_kind()["logits"] == {"up": up, "down": 5 * PUBLIC * 12}


@each_once(consensus=[MeanProbability(sharpen=2.0), MeanLogit(), MostConfident()], into=["main", "auxiliary"])
def test_every_consensus_teaches_either_head(consensus: Any, into: Any) -> None:
    """Distilling into auxiliary heads changes them; into the main head leaves them as drawn."""
    cohort = Cohort(fleets(heads=2), CLASSES, vectorize="never")
    drawn = cohort.student("cameras/0").aux[0].weight.detach().clone()  # type: ignore[union-attr]
    knowledge = SharedLogits(consensus=consensus, into=into, temperature=2.0)
    fit(cohort, DecentralizedCallback(knowledge, None, Complete(), schedule()), max_epochs=1)
    taught = cohort.student("cameras/0").aux[0].weight.detach()  # type: ignore[union-attr]
    assert torch.equal(taught, drawn) == (into == "main")


def test_no_public_view_of_a_modality_is_refused() -> None:
    class Blind(TinyData):
        def public(self, split: str) -> Any:
            return PublicSamples({"image": self.public_x})

    with pytest.raises(ConfigError, match="no public sample shows 'audio'"):
        run(SharedLogits(), None, Complete(), data=Blind(batch_size=16))


def test_a_digest_longer_than_knowledge_lasts_is_refused() -> None:
    with pytest.raises(ConfigError, match="digest is 4, but new knowledge comes every 3 ticks"):
        run(SharedLogits(samples="all", digest=4), None, Complete(), schedule={"knowledge_every": 3})


class Overhearing(Consensus):
    """Makes the same of what all say, whoever hears whom."""

    def combine(self, heard: Heard, hears: Tensor, temperature: float) -> Target:
        mean = heard.values.softmax(-1).mean(0).expand(len(hears), -1, -1)
        return Target(mean, torch.ones(mean.shape[:2]))


def test_a_rule_that_listens_to_those_who_are_not_heard_is_refused() -> None:
    with pytest.raises(ConfigError, match="learn from a peer that it does not hear"):
        run(SharedLogits(consensus=Overhearing()), None, Complete())


class Relative(SharedLogits):
    """Says logits relative to the greatest of the batch."""

    def speak(self, predictions: Classes) -> dict[str, Statement]:
        return {"main": Statement(predictions.logits - predictions.logits.amax((1, 2), keepdim=True))}


def test_statements_about_whole_batches_are_refused_where_batches_differ() -> None:
    """Where everybody speaks about the same samples of a batch they mean something, and are taken."""
    with pytest.raises(ConfigError, match="as the samples beside it are"):
        run(Relative(samples="all"), None, Complete())
    with pytest.raises(ConfigError, match="as the samples beside it are"):
        run(Relative(confident=0.5), None, Complete())
    _, callback = run(Relative(), None, Complete(), schedule={"local_steps": 1})
    assert callback.ledger.total("logits") > 0
