"""What must change nothing, bit for bit and through ``Trainer.fit``; and teachers that are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.cohort import Fleet
from mmkd.knowledge import MultiHeadDistillation, Prototypes, SharedLogits
from mmkd.topology import Complete, Ring, Topology
from mmkd.types import ConfigError
from tests.knowledge.worlds import Apart, Outcome, fleets, learn
from tests.tiny import CLASSES, Ear, Eye, sgd

BOTH = pytest.mark.parametrize("vectorize", ["never", "always"])
BATCH, PUBLIC = 16, 100


# --- public labels ---------------------------------------------------------------------------------


class Labelled(Apart):
    """Tells the labels of public samples, and counts who asks."""

    def __init__(self, *, scrambled: bool) -> None:
        super().__init__()
        self.scrambled, self.asked = scrambled, 0

    def public_labels(self) -> Tensor:
        self.asked += 1
        return (self.public_y + self.scrambled) % CLASSES


def scrambled(knowledge: Any, vectorize: str) -> tuple[set[str], int]:
    """Who differs if all public labels do, and how often they were asked for."""
    data = [Labelled(scrambled=wrong) for wrong in (False, True)]
    usual, other = (learn(knowledge, Complete(), every=2, data=d, vectorize=vectorize) for d in data)
    return usual.who_differs(other), sum(d.asked for d in data)


@BOTH
@pytest.mark.parametrize(
    "knowledge",
    [
        SharedLogits(),
        SharedLogits(samples="all", digest=1),
        MultiHeadDistillation(nu_emb=1.0),
        MultiHeadDistillation(nu_emb=1.0, samples="all"),
        Prototypes(),
        Prototypes(of="embedding"),
    ],
    ids=["shared", "shared all", "multi-head", "multi-head all", "probabilities", "embedding"],
)
def test_public_labels_are_never_read(vectorize: str, knowledge: Any) -> None:
    assert scrambled(knowledge, vectorize) == (set(), 0)


@BOTH
@pytest.mark.parametrize("kind", [SharedLogits, MultiHeadDistillation])
@pytest.mark.parametrize("samples", ["batch", "all"])
def test_unless_a_method_says_so(vectorize: str, kind: Any, samples: Any) -> None:
    changed, asked = scrambled(kind(samples=samples, pretrain=3), vectorize)
    assert len(changed) == 7
    assert asked > 0


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
every_when = pytest.mark.parametrize("when", WHEN.values(), ids=WHEN)


def assert_same(peers: dict[str, Fleet], vectorize: str, when: Any) -> None:
    knowledge = MultiHeadDistillation(nu_emb=1.0, teachers=1, **when)
    usual, other = (
        learn(knowledge, Ring(), peers=p, vectorize=vectorize, every=2)
        for p in (described(EYES, EARS), peers)
    )
    assert usual.who_differs(other) == set()
    assert bytes_by_id(usual) == bytes_by_id(other)


@BOTH
@pytest.mark.parametrize("peers", SAME.values(), ids=SAME)
@every_when
def test_order_and_names_are_nothing(vectorize: str, peers: Any, when: Any) -> None:
    """Dropout is on: random streams belong to ids."""
    assert_same(peers, vectorize, when)


@every_when
def test_one_fleet_or_two_is_the_same(when: Any) -> None:
    assert_same(SPLIT, "never", when)


def test_an_id_is_something() -> None:
    """The first peer starts, reads and drops out otherwise as "aa", at the same place; all hear of it in the end."""
    knowledge = MultiHeadDistillation(nu_emb=1.0)
    peers = described(("cameras", Eye, ["aa", "d", "e", "g"]), EARS)
    usual, other = (learn(knowledge, Ring(), peers=p) for p in (described(EYES, EARS), peers))
    assert {ident for ident in "bcdefg" if usual.differs(other, ident)} == set("bcdefg")


# --- teachers that are drawn -----------------------------------------------------------------------

NEIGHBOURS = {0: [], 1: [0], 2: [0, 1], 3: [0, 1, 5], 4: [0, 1, 2, 3], 5: [0, 1, 2, 3, 4]}


class Stairs(Topology):
    """Peer k hears k others."""

    def adjacency(self, peers: Sequence[str], round: int) -> Tensor:
        adjacency = torch.zeros(len(peers), len(peers), dtype=torch.bool)
        for k, heard in NEIGHBOURS.items():
            adjacency[k, heard] = True
        return adjacency


class Recording(SharedLogits):
    """Remembers who heard whom at every exchange."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heard: list[Tensor] = []

    def listen(self, heard: Any, hears: Tensor, own: Tensor) -> Any:
        self.heard.append(hears.clone())
        return super().listen(heard, hears, own)


def draws(teachers: int | None, ticks: int, samples: Any = "batch") -> tuple[Tensor, Outcome]:
    """Who heard whom, ``[exchanges, listeners, speakers]``."""
    knowledge = Recording(teachers=teachers, samples=samples)
    peers = fleets(6, 1, heads=0, dim=4)
    del peers["microphones"]
    out = learn(knowledge, Stairs(), peers=peers, ticks=ticks, block=50, vectorize="always")
    return torch.stack(knowledge.heard), out


def test_drawn_teachers_are_neighbours_all_alike_and_afresh_every_time() -> None:
    """Each of the statistics stays within what independent uniform draws do but for one in ten thousand."""
    exchanges = 150
    heard, _ = draws(1, exchanges)
    number = heard.sum(0).double()
    degrees = torch.tensor([len(NEIGHBOURS[k]) for k in range(6)])
    assert torch.equal(heard.sum(-1), degrees.clamp(max=1).expand(exchanges, -1))
    assert not number[~Stairs().adjacency(list("abcdef"), 0)].any()
    # Sum over listeners of (observed - expected)^2 / expected: chi-squared with sum (degree - 1) freedoms.
    chi, freedoms = 0.0, 0
    for k, others in NEIGHBOURS.items():
        if len(others) > 1:
            expected = exchanges / len(others)
            chi += float(((number[k, others] - expected) ** 2 / expected).sum())
            freedoms += len(others) - 1
    tail = torch.special.gammaincc(torch.tensor(freedoms / 2), torch.tensor(chi / 2))
    assert 1e-4 < tail < 1 - 1e-4  # neither lopsided nor taken in turns
    # The same one twice in a row: one in `degree`. The same as another listener who can hear it: likewise.
    chosen = heard.int().argmax(-1)
    for k in (2, 3, 4, 5):
        assert_binomial(int((chosen[1:, k] == chosen[:-1, k]).sum()), exchanges - 1, 1 / len(NEIGHBOURS[k]))
    assert_binomial(int((chosen[:, 5] == chosen[:, 4]).sum()), exchanges, 1 / 5)


def assert_binomial(count: int, trials: int, p: float) -> None:
    """Within four standard deviations."""
    assert abs(count - trials * p) < 4 * (trials * p * (1 - p)) ** 0.5


@pytest.mark.parametrize("teachers", [2, 4])
def test_never_more_teachers_than_asked_for_nor_fewer_than_there_are(teachers: int) -> None:
    heard, _ = draws(teachers, 6)
    degrees = torch.tensor([len(NEIGHBOURS[k]) for k in range(6)])
    assert torch.equal(heard.sum(-1), degrees.clamp(max=teachers).expand(6, -1))
    assert not (heard & ~Stairs().adjacency(list("abcdef"), 0)).any()


@pytest.mark.parametrize("teachers", [1, 2, None])
@pytest.mark.parametrize(("samples", "size"), [("batch", BATCH), ("all", PUBLIC)])
def test_only_what_is_heard_is_paid_for(teachers: int | None, samples: str, size: int) -> None:
    """A listener with n neighbours costs min(n, teachers) payloads an exchange, over the edges drawn."""
    ticks = 8
    heard, out = draws(teachers, ticks, samples)
    exchanges = ticks if samples == "batch" else ticks - 1  # nobody would use what is said after the last
    payload = size * CLASSES * 4
    each = sum(min(len(others), teachers or 5) for others in NEIGHBOURS.values())
    assert out.callback.ledger.total("logits") == exchanges * each * payload
    names = out.cohort.names
    expected = Counter(
        {
            (names[speaker], names[listener]): int(times) * payload
            for (listener, speaker), times in zip(
                heard.sum(0).nonzero().tolist(), heard.sum(0)[heard.sum(0) > 0].tolist(), strict=True
            )
        }
    )
    entries = [entry for entry in out.callback.ledger.entries() if entry.kind == "logits"]
    assert {(entry.sender, entry.receiver): entry.bytes for entry in entries} == expected
