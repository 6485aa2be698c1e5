"""How the weights of a cluster are averaged, and what crosses its edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.federated import Aggregation, FedAvg, Round
from mmkd.functional.trees import Tree
from mmkd.topology import Complete, Path, Star
from mmkd.types import ConfigError
from tests.tiny import CLASSES, TinyData, adam_steps, fit, fleets, run, schedule

ROUNDS, TICKS = 2, 14  # one epoch of two rounds of seven ticks
PUBLIC = 100


def weights_of(cohort: Cohort, name: str) -> int:
    """Floats that may travel: parameters and the two running statistics; not the counter or the prior."""
    student = cohort.student(name)
    return sum(p.numel() for p in student.parameters()) + 2 * student.net[1].num_features


@pytest.mark.parametrize(("topology", "edges"), [(Star(), (3 + 2) * 2), (Complete(), 3 * 2 + 2 * 1)])
def test_bytes_of_weights(topology: Any, edges: int) -> None:
    """Three cameras and two microphones, each among its own modality."""
    cohort, callback = run(None, FedAvg(), topology)
    eye, ear = weights_of(cohort, "cameras/0"), weights_of(cohort, "microphones/0")
    each = {10: (6, 4), 8: (6, 2)}[edges]
    assert callback.ledger.total("weights") == ROUNDS * 4 * (each[0] * eye + each[1] * ear)


@pytest.mark.parametrize("vectorize", ["never", pytest.param("always", marks=pytest.mark.long)])
def test_fedavg_is_the_weighted_mean_within_a_modality(vectorize: Any) -> None:
    """The last round ends with an average: equal weights in a modality, p_k = n_k / n, by hand."""
    cohorts = []
    for aggregation in (None, FedAvg(among="modality")):
        cohort = Cohort(fleets(), CLASSES, vectorize=vectorize)
        one = schedule(rounds_per_epoch=1)
        fit(cohort, DecentralizedCallback(None, aggregation, Star(), one), max_epochs=1)
        cohorts.append(cohort)
    isolated, averaged = cohorts
    data = TinyData(batch_size=16, peers=isolated.roster[0])
    data.setup("fit")
    for peers in (["cameras/0", "cameras/1", "cameras/2"], ["microphones/0", "microphones/1"]):
        n = torch.tensor([len(data.private(p, "train")) for p in peers], dtype=torch.float64)  # type: ignore[arg-type]
        states = [isolated.student(p).state_dict() for p in peers]
        for name in states[0]:
            if name == "log_prior" or name.endswith("num_batches_tracked"):
                continue  # never leave a peer
            mean = sum(w * s[name].double() for w, s in zip(n / n.sum(), states, strict=True))
            for peer in peers:
                got = averaged.student(peer).state_dict()[name].double()
                torch.testing.assert_close(got, mean, rtol=1e-5, atol=1e-6)
        kept = [averaged.student(p).state_dict()["log_prior"] for p in peers]
        assert not torch.equal(kept[0], kept[1])


def test_buffers_may_stay_local() -> None:
    cohort, _ = run(None, FedAvg(buffers="local"), Star())
    one, two = cohort.student("cameras/0"), cohort.student("cameras/1")
    assert torch.equal(one.main.weight, two.main.weight)  # type: ignore[union-attr]
    assert not torch.equal(one.net[1].running_mean, two.net[1].running_mean)


def test_optimizer_state_is_reset_or_kept() -> None:
    for policy, steps in (("reset", set()), ("keep", {TICKS})):
        cohort, _ = run(None, FedAvg(optimizer_state=policy), Star())  # type: ignore[arg-type]
        assert adam_steps(cohort, "cameras/0") == steps


def test_averaging_unlike_students_is_refused() -> None:
    with pytest.raises(ConfigError, match="differ in shape"):
        run(None, FedAvg(among="all"), Complete())


class Careless(Aggregation):
    """Leaves statistics as they are."""

    def average(self, statistics: Tree, round: Round) -> Tree:
        return statistics


class Asking(Careless):
    def finish(self, y: Tree, round: Round) -> Tree:
        return round.send("weights", y)


class Weighing(Careless):
    def finish(self, y: Tree, round: Round) -> Tree:
        return round.mix("weights", y, torch.full((len(round.rows), len(round.rows)), 0.5))


class Alike(Careless):
    def finish(self, y: Tree, round: Round) -> Tree:
        return {name: leaf[:1] for name, leaf in y.items()}


@pytest.mark.parametrize(
    ("aggregation", "message"),
    [
        (Asking(), "Asking asks what everybody says, and on this graph not everybody hears everybody"),
        (Weighing(), "Weighing weighs peers that are not heard"),
        (Alike(), "Alike.finish gave one row for all on a graph on which not everybody hears everybody"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Aggregation) else "",
)
def test_what_a_peer_did_not_hear_is_not_there(aggregation: Aggregation, message: str) -> None:
    """On a path of three cameras the ends do not hear each other."""
    with pytest.raises(ConfigError, match=message):
        run(None, aggregation, Path(), schedule={"local_steps": 1, "rounds_per_epoch": 1})
