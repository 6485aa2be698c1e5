"""Checks that refuse knowledge and parameters without meaning for the given students and settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.cohort.peers import Peers
from mmkd.data.base import PeerData
from mmkd.federated import Aggregation
from mmkd.functional.random import generator
from mmkd.functional.trees import Tree
from mmkd.knowledge.base import Heard, Statement, Statements
from mmkd.topology import Topology
from mmkd.types import ConfigError, Predictions

READERS = {
    "Classes": "SharedLogits or another knowledge about classes",
    "Detections": "SharedDetections or DenseDetections",
    "Tags": "SharedTags",
    "Values": "SharedValues",
}
"""The knowledge that reads each kind of predictions."""


def check_kind(knowledge: Statements, peers: Peers) -> None:
    """Refuse knowledge about other predictions than the students give.

    Raises:
        ConfigError: students are to learn from predictions of another kind, such as detectors from classes.
    """
    student = peers.student(peers.names[0])
    if student.gives is not knowledge.reads:
        gives, reads = student.gives.__name__, knowledge.reads.__name__
        known = READERS.get(gives, "one of your own that reads them")
        raise ConfigError(
            f"{type(student).__name__} cannot learn {type(knowledge).__name__}, which reads {reads}, and it"
            f" gives {gives}: choose {known}"
        )


def check_classes(knowledge: Statements, peers: Peers, data: PeerData) -> None:
    """Refuse knowledge about classes where private labels are no classes.

    Raises:
        ConfigError: labels are soft, or other targets.
    """
    for name in (group.names[0] for group in peers.groups if knowledge.about == "classes"):
        y = data.reader(name, "train").batch(torch.arange(1), 0).y
        if y is None or y.dim() != 1 or y.is_floating_point():
            raise ConfigError(
                f"{type(knowledge).__name__} is about the classes of private samples, and the labels of"
                f" '{name}' are no whole numbers; choose SharedLogits"
            )


def check_hearing(topology: Topology, clusters: Sequence[Sequence[str]]) -> None:
    """Refuse a graph in which nobody hears anybody, of several participants.

    Args:
        topology: the graph; of one that changes, ten rounds are looked at.
        clusters: participants who hear one another.

    Raises:
        ConfigError: such a graph.
    """
    rounds = range(1 if topology.fixed else 10)
    several = sum(map(len, clusters)) > 1
    if several and not any(topology.sparse(c, t).count for c in clusters for t in rounds):
        kind, most = type(topology).__name__, max(map(len, clusters))
        why = (
            "no cluster has two peers: set aggregation.among to all" if most == 1 else "choose another graph"
        )
        raise ConfigError(f"nobody hears anybody over {kind}, so nothing is ever exchanged; {why}")


def check_lessons(knowledge: Statements, every: int | None, ticks: int) -> None:
    """Refuse a run that ends before anything is taught.

    Args:
        knowledge: what is taught.
        every: ticks between two exchanges, as the user gave them; None for one exchange a round.
        ticks: of the whole run; not above 0 if that is not known.

    Raises:
        ConfigError: such a run.
    """
    if 0 < ticks < knowledge.pretrain:
        raise ConfigError(
            f"knowledge.pretrain lasts {knowledge.pretrain} ticks, and the run {ticks}: lower it"
        )
    # What is said about a batch is learned at once, beginning with the first.
    if every is not None and 0 < ticks <= every and knowledge.samples == "all":
        raise ConfigError(
            f"knowledge is exchanged every {every} ticks and the run lasts {ticks}, so nothing is taught:"
            " lower schedule.knowledge_every, or raise trainer.max_epochs"
        )


def check_rows(knowledge: Statements, predictions: Predictions, *, everywhere: bool) -> None:
    """Refuse statements whose rows depend on other samples of a batch, where batches differ between peers.

    Args:
        knowledge: makes the statements.
        predictions: of one peer on two public samples (or on one, with which nothing can be checked).
        everywhere: whether every peer sees and speaks about every public sample.

    Raises:
        ConfigError: such statements.
    """
    if (knowledge.samples == "batch" and everywhere) or knowledge.about != "public":
        return
    whole = knowledge.speak(predictions)
    alone = knowledge.speak(_of_samples(predictions, lambda t, axis: t.narrow(axis, 0, 1)))
    for name, (values, _) in whole.items():
        first = alone[name].values if name in alone else values.new_empty(0)
        if values[:, :1].shape != first.shape or not torch.allclose(values[:, :1], first, equal_nan=True):
            raise ConfigError(
                f"{type(knowledge).__name__} says '{name}' about a sample as the samples beside it are, which"
                " has a meaning only where all peers speak about all samples of one batch: set"
                " knowledge.samples to batch and confident to 0, with public samples that all modalities show"
            )


def check_listening(knowledge: Statements, predictions: Predictions) -> None:
    """Refuse a rule that listens to those who are not heard.

    Three speakers say what a student predicts, each with other numbers; the first listens to the second.
    Changing what the third says must not change the target.

    Args:
        knowledge: makes statements and targets.
        predictions: of one peer on public samples.

    Raises:
        ConfigError: such a rule.
    """
    stream = generator("overhearing")

    def varied(tensor: Tensor, axis: int) -> Tensor:
        three = tensor.expand(3, *tensor.shape[1:])
        noise = torch.rand(three.shape, generator=stream, dtype=torch.float64).to(three)
        return three * (1 + 0.1 * noise) + 0.01 * noise

    statements = knowledge.speak(_of_samples(predictions, varied))
    hears = torch.tensor([[False, True, False]], device=predictions[0].device)
    own = torch.tensor([[True, False, False]], device=predictions[0].device)

    def targets(third: float, spoke: bool) -> list[Tensor]:
        heard = {name: _changed(statement, third, spoke) for name, statement in statements.items()}
        return [t for target in knowledge.listen(heard, hears, own).values() for t in target[:2]]

    first = targets(1.0, True)
    for other in (targets(-3.0, True), targets(1.0, False)):
        if not all(torch.equal(a, b) for a, b in zip(first, other, strict=True)):
            raise ConfigError(
                f"{type(knowledge).__name__}, or its consensus, lets a listener learn from a peer that it"
                " does not hear: use heard.values only where hears says so"
            )


def _changed(statement: Statement, third: float, spoke: bool) -> Heard:
    values = statement.values.clone()
    values[2] = values[2] * third
    spoken = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    spoken[2] = spoke
    return Heard(values, spoken)


def _of_samples(predictions: Predictions, change: Callable[[Tensor, int], Tensor]) -> Any:
    """Predictions of which every tensor is changed, given its axis of samples."""
    kind: Any = type(predictions)
    axes = [2 if name == "auxiliary" else 1 for name in predictions._fields]
    return kind(*(change(t, axis) for t, axis in zip(predictions, axes, strict=True)))


def check_thawed(aggregation: Aggregation, x: Tree) -> Tree:
    """Refuse parameters that were frozen or thawed although an aggregation has state of each of them.

    Args:
        aggregation: with its state at the end of a round.
        x: parameters that are about to be trained.

    Returns:
        these.

    Raises:
        ConfigError: it has state of other parameters.
    """
    for what, tree in aggregation.state.items():
        # x is set anew in every round, and statistics of normalisation are no parameters.
        odd = set(tree) ^ set(x) if what != "x" and not set(tree).isdisjoint(x) else set[str]()
        if odd:
            kind = type(aggregation).__name__
            raise ConfigError(
                f"'{min(odd)}' was frozen or thawed, and {kind} remembers '{what}' of every parameter: freeze"
                " before training, or choose FedAvg, FedProx or Gossip, which remember none"
            )
    return x


def check_finished(aggregation: Aggregation, x: Tree, present: int) -> None:
    """Refuse one row of weights for all, where peers hear different ones.

    Args:
        aggregation: that has finished a round.
        x: what it gave.
        present: how many take part in the round.

    Raises:
        ConfigError: there is not a row for each.
    """
    if any(len(leaf) != present for leaf in x.values()):
        raise ConfigError(
            f"{type(aggregation).__name__}.finish gave one row for all on a graph on which not everybody"
            f" hears everybody; give one for each of the {present} peers, or derive it from Combination"
        )
