"""What must change nothing, bit for bit and through ``Trainer.fit``; and teachers that are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.cohort import Fleet
from mmkd.knowledge import MultiHeadDistillation, Prototypes, SharedLogits
from mmkd.topology import Complete, Ring
from mmkd.types import ConfigError
from tests.grids import each_once, pairwise
from tests.knowledge.worlds import Apart, Outcome, fleets, learn
from tests.spies import Spy
from tests.stairs import Stairs, assert_drawn_and_paid
from tests.tiny import CLASSES, Ear, Eye, sgd

BATCH, PUBLIC = 16, 100


# --- public labels ---------------------------------------------------------------------------------


class Labelled(Apart):
    """Tells the labels of public samples, and counts how often it is asked."""

    def __init__(self, *, scrambled: bool = False) -> None:
        super().__init__()
        self.scrambled, self.asked = scrambled, 0

    def public_labels(self) -> Tensor:
        self.asked += 1
        return (self.public_y + self.scrambled) % CLASSES


UNLABELLED: dict[str, Any] = {
    "shared": SharedLogits(),
    "shared all": SharedLogits(samples="all", digest=1),
    "multi-head": MultiHeadDistillation(nu_emb=1.0),
    "multi-head all": MultiHeadDistillation(nu_emb=1.0, samples="all"),
    "probabilities": Prototypes(),
    "embedding": Prototypes(of="embedding"),
}


@each_once(vectorize=["never", "always"], knowledge=UNLABELLED)
def test_public_labels_are_never_read(vectorize: str, knowledge: Any) -> None:
    """The data tell them to whoever asks, and to nobody else."""
    data = Labelled()
    learn(knowledge, Complete(), ticks=4, every=2, data=data, vectorize=vectorize)
    assert data.asked == 0


@pairwise(vectorize=["never", "always"], kind=[SharedLogits, MultiHeadDistillation], samples=["batch", "all"])
def test_unless_a_method_says_so(vectorize: str, kind: Any, samples: Any) -> None:
    """Then other labels make another peer of everybody."""
    data = [Labelled(scrambled=wrong) for wrong in (False, True)]
    knowledge = kind(samples=samples, pretrain=3)
    usual, other = (learn(knowledge, Complete(), ticks=4, every=2, data=d, vectorize=vectorize) for d in data)
    assert len(usual.who_differs(other)) == 7
    assert all(d.asked > 0 for d in data)


def test_data_without_public_labels_refuse_to_pretrain() -> None:
    with pytest.raises(ConfigError, match="Apart has no labels for its public samples"):
        learn(SharedLogits(pretrain=3))


# --- order and names -------------------------------------------------------------------------------

IDS = {"cameras": ["a", "d", "e", "g"], "microphones": ["b", "c", "f"]}
"""Of either modality before, between and after those of the other."""


def described(*fleets: tuple[str, type[Eye], Sequence[str]]) -> dict[str, Fleet]:
    """Fleets by name, in the order given."""

    def fleet(kind: type[Eye], ids: Sequence[str]) -> Fleet:
        return Fleet(lambda n: kind(n, heads=2, optimizer=sgd(0.5)), len(ids), list(ids))

    return {name: fleet(kind, ids) for name, kind, ids in fleets}


EYES, EARS = ("cameras", Eye, "adeg"), ("microphones", Ear, "bcf")
SAME: dict[str, Any] = {
    "fleets the other way round": described(EARS, EYES),
    "peers the other way round": described(("cameras", Eye, "geda"), ("microphones", Ear, "cfb")),
    "other names": described(("zebras", Eye, "adeg"), ("ants", Ear, "bcf")),
}
SPLIT = described(("late", Eye, "ge"), EARS, ("early", Eye, "da"))


def bytes_by_id(out: Outcome) -> dict[tuple[str, str, str], int]:
    """Of every directed edge and kind, but for framing, which has the names in it."""
    ids = out.cohort.ids
    entries = [entry for entry in out.callback.ledger.entries() if entry.kind != "framing"]
    return {(ids[entry.sender], ids[entry.receiver], entry.kind): entry.bytes for entry in entries}


WHEN: dict[str, Any] = {
    "batch": {},
    "all": {"samples": "all"},
    "pool": {"samples": "all", "pool": 2, "recall": 1},
}


def drawing(peers: dict[str, Fleet], vectorize: str, when: str) -> Outcome:
    """Peers who draw their teachers and what they recall, with dropout on."""
    knowledge = MultiHeadDistillation(nu_emb=1.0, teachers=1, **WHEN[when])
    return learn(knowledge, Ring(), peers=peers, vectorize=vectorize, every=2)


@cache
def as_usual(vectorize: str, when: str) -> Outcome:
    return drawing(described(EYES, EARS), vectorize, when)


def assert_same(peers: dict[str, Fleet], vectorize: str, when: str) -> None:
    usual, other = as_usual(vectorize, when), drawing(peers, vectorize, when)
    assert usual.who_differs(other) == set()
    assert bytes_by_id(usual) == bytes_by_id(other)


@pairwise(vectorize=["never", "always"], peers=SAME, when=list(WHEN))
def test_order_and_names_are_nothing(vectorize: str, peers: Any, when: str) -> None:
    """Dropout is on: random streams belong to ids."""
    assert_same(peers, vectorize, when)


@pytest.mark.parametrize("when", WHEN)
def test_one_fleet_or_two_is_the_same(when: str) -> None:
    assert_same(SPLIT, "never", when)


def test_an_id_is_something() -> None:
    """The first peer starts, reads and drops out otherwise as "aa", at the same place; all hear of it in the end."""
    knowledge = MultiHeadDistillation(nu_emb=1.0)
    peers = described(("cameras", Eye, ["aa", "d", "e", "g"]), EARS)
    usual, other = (learn(knowledge, Ring(), peers=p) for p in (described(EYES, EARS), peers))
    assert {ident for ident in "bcdefg" if usual.differs(other, ident)} == set("bcdefg")


# --- teachers that are drawn -----------------------------------------------------------------------


class Recording(Spy, SharedLogits): ...


@each_once(teachers=[1, 2, 4, None], samples=["batch", "all"])
def test_only_what_is_heard_is_paid_for(teachers: int | None, samples: Any) -> None:
    ticks, size = 6, BATCH if samples == "batch" else PUBLIC
    knowledge = Recording(teachers=teachers, samples=samples)
    peers = {"cameras": fleets(6, heads=0, dim=4)["cameras"]}
    out = learn(knowledge, Stairs(), peers=peers, ticks=ticks, block=50, vectorize="always")
    heard = torch.stack(knowledge.hears)
    assert len(heard) == (ticks if samples == "batch" else ticks - 1)  # after the last nobody would use it
    assert_drawn_and_paid(heard, teachers, out.cohort.names, out.callback.ledger, size * CLASSES * 4)
