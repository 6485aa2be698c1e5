"""Who can influence whom, bit for bit and through ``Trainer.fit``.

A speaker says what it knew before the tick. So what it says at an exchange has in it what it had
learned in earlier ticks, and what others learn from it in this tick they can only say at the next
exchange: one exchange, one hop.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path as File
from typing import Any

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.cohort.coordinator import Lesson
from mmkd.knowledge import (
    EveryTeacher,
    Knowledge,
    MeanProbability,
    MultiHeadDistillation,
    SharedLogits,
)
from mmkd.topology import Complete, DirectedCycle, EdgeList, Islands, Path, Ring, Topology
from mmkd.types import Classes, Predictions, Step
from tests.grids import each_once, pairwise
from tests.knowledge.worlds import Apart, Outcome, fleets, learn
from tests.paths import PATHS
from tests.tiny import Ear, Eye

PEERS = [*(f"cameras/{i}" for i in range(4)), *(f"microphones/{i}" for i in range(3))]
FIRST = PEERS[0]

TEACH: dict[str, Any] = {
    "shared": SharedLogits,
    "mean": lambda **k: MultiHeadDistillation(teacher=MeanProbability(), **k),
    "most confident": lambda **k: MultiHeadDistillation(nu_emb=1.0, self_target=True, **k),
    "every": lambda **k: MultiHeadDistillation(nu_emb=0.5, teacher=EveryTeacher(), level="same", **k),
}
WHEN: dict[str, Any] = {
    "batch": {},
    "all": {"samples": "all"},
    "pool": {"samples": "all", "pool": 2, "recall": 2},
}


# --- after t exchanges nothing from beyond t hops --------------------------------------------------


def turn(cohort: Cohort) -> None:
    """Other initial weights for the first peer."""
    with torch.no_grad():
        for p in cohort.student(FIRST).parameters():
            p.mul_(-1.5)


def reached(knowledge: Knowledge, topology: Topology, changed: str, exchanges: int, vectorize: str) -> Any:
    """Who differs, if the first peer's private samples or its initial weights do.

    In a round of ticks 0, 1, 2, ... with an exchange at every second, ``batch`` speaks in ticks 0, 2, 4,
    ... and is learned from in the same tick; ``all`` speaks after ticks 1, 3, 5, ... and is learned
    from in the next. So training ends in the first tick that can learn from the last exchange.
    """
    ticks = 2 * exchanges - 1 if knowledge.samples == "batch" else 2 * exchanges + 1
    outcomes = [
        learn(
            knowledge,
            topology,
            ticks=ticks,
            every=2,
            vectorize=vectorize,
            data=Apart(changed=[FIRST] if change == "samples" else []),
            before=turn if change == "weights" else None,
        )
        for change in ("nothing", changed)
    ]
    assert [outcome.transport.exchanges for outcome in outcomes] == [exchanges] * 2
    return outcomes[0].who_differs(outcomes[1])


def within(topology: Topology, hops: int) -> set[str]:
    """Who hears of the first peer over at most so many hops."""
    step = topology.adjacency(PEERS, 0).long() + torch.eye(len(PEERS), dtype=torch.long)
    paths = torch.linalg.matrix_power(step, hops)[:, 0]
    return {name for name, number in zip(PEERS, paths.tolist(), strict=True) if number}


def hops_after(exchanges: int, samples: str, changed: str) -> int:
    """Batch by batch, the first exchange falls into the first tick, and nobody can tell of private samples yet."""
    return exchanges - (samples == "batch" and changed == "samples")


@pairwise(topology=[Path(), Ring()], teach=TEACH, samples=["batch", "all"], changed=["weights", "samples"])
def test_after_three_exchanges_nothing_from_beyond(
    topology: Topology, teach: Any, samples: str, changed: str
) -> None:
    """Three hops, or two; whoever is as near as that has been reached, and nobody else.

    On a path of seven all between the fifth and the last are out of reach; on a ring three hops lead
    all around, so there it is two exchanges.
    """
    exchanges, vectorize = (3, "never") if isinstance(topology, Path) else (2, "always")
    got = reached(teach(samples=samples), topology, changed, exchanges, vectorize)
    hops = hops_after(exchanges, samples, changed)
    assert got == within(topology, hops)
    assert len(got) == 1 + hops * (1 if isinstance(topology, Path) else 2)


@pairwise(speak=["train", "eval"], samples=["batch", "all"], changed=["weights", "samples"], exchanges=[1, 4])
def test_one_exchange_one_hop(speak: Any, samples: Any, changed: str, exchanges: int) -> None:
    knowledge = MultiHeadDistillation(nu_emb=1.0, teachers=1, speak=speak, samples=samples)
    got = reached(knowledge, DirectedCycle(), changed, exchanges, "never")
    assert got == set(PEERS[: 1 + hops_after(exchanges, samples, changed)])


@pairwise(recall=[None, 1], changed=["weights", "samples"], exchanges=[1, 3])
def test_what_is_remembered_has_come_no_further(recall: int | None, changed: str, exchanges: int) -> None:
    """The last exchange is in the pool, too; who draws a single entry may miss it, and gains no hop by that."""
    knowledge = MultiHeadDistillation(nu_emb=1.0, samples="all", pool=3, recall=recall)
    got, near = reached(knowledge, DirectedCycle(), changed, exchanges, "never"), set(PEERS[: 1 + exchanges])
    assert got == near if recall is None else {FIRST} < got <= near


# --- islands, and who hears nobody -----------------------------------------------------------------

LEFT = {"cameras/0", "cameras/2", "microphones/1"}
ISLANDS = Islands(among={"left": sorted(LEFT), "right": sorted(set(PEERS) - LEFT)})


DRAWN: dict[str, Any] = TEACH | {"drawn": lambda **k: MultiHeadDistillation(nu_emb=0.5, teachers=1, **k)}


@each_once(vectorize=["never", "always"], path=PATHS, teach=DRAWN)
def test_islands_never_influence_each_other(vectorize: str, teach: Any) -> None:
    """Both modalities are on both islands, so that peers who train in one group are strangers."""
    usual, other = (
        learn(teach(), ISLANDS, vectorize=vectorize, data=Apart(changed=changed)) for changed in ([], [FIRST])
    )
    assert usual.who_differs(other) == LEFT


@each_once(teach=DRAWN, when=WHEN)
def test_an_island_is_what_it_would_be_alone_in_the_world(teach: Any, when: Any) -> None:
    """Draws of teachers, of batches and of layers are keyed by ids, and nobody else's place counts."""
    both = learn(teach(**when), ISLANDS, every=2)
    ids = {"cameras": ["cameras/0", "cameras/2"], "microphones": ["microphones/1"]}
    alone = learn(teach(**when), Complete(), every=2, peers=fleets(2, 1, ids=ids))
    assert not any(alone.differs(both, ident) for ident in LEFT)


HEARS_NOBODY: dict[str, Any] = {
    "shared": lambda **k: SharedLogits(include_self=False, **k),
    "multi-head": lambda **k: MultiHeadDistillation(nu_emb=1.0, **k),
}


@cache
def without_knowledge(vectorize: str) -> Outcome:
    return learn(None, vectorize=vectorize)


def graph(path: File, *edges: str) -> EdgeList:
    file = path / "edges.txt"
    file.write_text("\n".join(edges))
    return EdgeList(str(file), directed=True)


@pairwise(vectorize=["never", "always"], teach=HEARS_NOBODY, when=WHEN)
def test_who_hears_nobody_is_as_if_there_were_no_knowledge(
    tmp_path: File, vectorize: str, teach: Any, when: Any
) -> None:
    """Whether nobody hears it either, or everybody else does: teachers get no gradient from their listeners."""
    taught = {"cameras/1", "cameras/2", "microphones/0", "microphones/1"}
    speakers = [FIRST, "microphones/2"]  # and cameras/3 stands apart
    topology = graph(tmp_path, *(f"{a} {b}" for a in speakers for b in sorted(taught)))
    heard = learn(teach(**when), topology, vectorize=vectorize)
    assert heard.who_differs(without_knowledge(vectorize)) == taught


def test_who_hears_only_itself_is_held_back(tmp_path: File) -> None:
    """With its own logits among what it hears, a peer alone keeps half of its private loss."""
    topology = graph(tmp_path, f"{FIRST} cameras/1")
    heard = learn(SharedLogits(include_self=True), topology)
    assert heard.who_differs(without_knowledge("never")) == set(PEERS)


# --- teachers get no gradient ----------------------------------------------------------------------


class Watched(DecentralizedCallback):
    """Differentiates the lesson of every peer by the parameters of all peers."""

    def on_fit_start(self, trainer: Any, cohort: Any) -> None:
        super().on_fit_start(trainer, cohort)
        teach = self.coordinator.teach

        def watched(step: Step, rows: list[list[int]]) -> list[Lesson | None]:
            lessons = teach(step, rows)
            self.reached = {}
            for group, lesson in zip(cohort.groups, lessons, strict=True):
                if lesson is not None:  # something has been said
                    losses = zip(group.names, lesson.loss, strict=True)
                    self.reached |= {peer: self._moved_by(cohort, loss) for peer, loss in losses}
            return lessons

        self.coordinator.teach = watched

    @staticmethod
    def _moved_by(cohort: Any, loss: torch.Tensor) -> set[str]:
        """Peers of whose parameters any has a slope."""
        moved = set()
        for group in cohort.groups:
            for number, student in enumerate(group.students()):
                found = torch.autograd.grad(
                    loss, list(student.parameters()), retain_graph=True, allow_unused=True
                )
                slopes = [slope for slope in found if slope is not None]
                one_each = len(group.students()) == len(group.names)
                for row in [number] if one_each else range(len(group.names)):
                    if any(bool((s if one_each else s[row]).count_nonzero()) for s in slopes):
                        moved.add(group.names[row])
        return moved


@each_once(vectorize=["never", "always"], path=PATHS, teach=TEACH, when=WHEN)
def test_a_lesson_moves_the_listener_alone(vectorize: str, teach: Any, when: Any) -> None:
    out = learn(teach(**when), Complete(), ticks=3, vectorize=vectorize, coordinate=Watched)
    assert out.callback.reached == {peer: {peer} for peer in PEERS}


# --- encoders detached from distillation -----------------------------------------------------------


def detached(kind: type[Eye]) -> type[Eye]:
    class Detached(kind):  # type: ignore[misc, valid-type]
        def heads(self, x: Any) -> Predictions:
            embedding = self.embed(x)
            auxiliary = torch.stack([head(embedding.detach()) for head in self.aux])
            return Classes(self.main(embedding), auxiliary, embedding)

    return Detached


HEADS = 3


def table(first: Outcome, second: Outcome) -> list[list[bool]]:
    """Row i, column h: whether head h of peer i differs; head 0 is the main one with its encoder."""
    rows = []
    for peer in PEERS:
        parts = [first.differs(second, peer, part) for part in ("main", "net")]
        heads = [first.differs(second, peer, f"aux.{h}.") for h in range(HEADS)]
        rows.append([any(parts), *heads])
    return rows


@each_once(vectorize=["never", "always"], where=[0, 5])
def test_with_detached_encoders_a_head_hears_as_many_hops_as_its_number(vectorize: str, where: int) -> None:
    """Head h of peer i depends on the private samples of i, i - 1, ..., i - h along the cycle alone.

    The encoder and head 0 learn from private samples only. Head h reads its own peer's encoder, and
    learns from head h - 1 of the peer before: D(i, h) = {i} or D(i - 1, h - 1). Six ticks are enough
    for the last: what is read in tick 0 is in head 1 of the next after tick 1, in head 3 after tick 3.
    """
    peers = fleets(eye=detached(Eye), ear=detached(Ear), heads=HEADS)
    knowledge = MultiHeadDistillation()
    usual, other = (
        learn(knowledge, DirectedCycle(), peers=peers, vectorize=vectorize, data=Apart(changed=changed))
        for changed in ([], [PEERS[where]])
    )
    expected = [[(i - where) % len(PEERS) <= h for h in range(HEADS + 1)] for i in range(len(PEERS))]
    assert table(usual, other) == expected


@pytest.mark.parametrize("attached", ["heads", "embeddings"])
def test_without_detaching_the_encoder_carries_more(attached: str) -> None:
    """Six ticks, of which five can tell of private samples, lead all around a ring of seven, into every head."""
    kinds = {"eye": detached(Eye), "ear": detached(Ear)} if attached == "embeddings" else {}
    knowledge = MultiHeadDistillation(nu_emb=float(attached == "embeddings"))
    usual, other = (
        learn(knowledge, Ring(), peers=fleets(dim=8, heads=HEADS, **kinds), data=Apart(changed=changed))
        for changed in ([], [FIRST])
    )
    assert table(usual, other) == [[True] * (HEADS + 1)] * len(PEERS)
