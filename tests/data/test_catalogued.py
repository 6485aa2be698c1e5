"""Catalogues: who gets which sample, and what is never shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.data.catalogue import DRAWN, PARTS, Catalogue, Held, View
from mmkd.data.catalogued import CatalogueData
from mmkd.data.partition import IID
from mmkd.types import NO_LABEL, ConfigError

SIZE, CLASSES = 120, 3
PEERS = {f"eyes/{i}": "image" for i in range(3)} | {"ears/0": "audio", "both/0": "audio+image"}


class Read(View):
    """Views that are read one by one, each of which holds its sample's number."""

    def take(self, rows: Tensor) -> Tensor:
        return rows[:, None].float()


def numbers(**changed: Any) -> Catalogue:
    """Samples that hold their own numbers; every fifth has no sound."""
    own = torch.arange(SIZE)
    given: dict[str, Any] = {
        "classes": ["a", "b", "c"],
        "y": own % CLASSES,
        "views": {"image": Held(own[:, None].float()), "audio": Read()},
        "shown": {"image": torch.ones(SIZE, dtype=torch.bool), "audio": own % 5 != 0},
        "part": torch.full((SIZE,), DRAWN),
    }
    return Catalogue(**{**given, **changed})


class Numbers(CatalogueData):
    num_classes = CLASSES
    modalities = ("image", "audio")

    def __init__(self, given: Catalogue, peers: dict[str, str] = PEERS, **kwargs: Any) -> None:
        super().__init__(peers=peers, batch_size=4, **kwargs)
        self.given = given

    def catalogue(self) -> Catalogue:
        return self.given


def owned(data: CatalogueData, peer: str, split: str = "train") -> list[int]:
    """The samples that a peer has, as they show themselves."""
    held: Any = data.private(peer, split)
    x, _, ids = held.take(torch.arange(len(held)))
    shown = x if isinstance(x, Tensor) else x["image"]
    assert torch.equal(shown.flatten().long(), ids)
    assert len(held) == 0 or torch.equal(torch.as_tensor(held[0][2]), ids[0])
    return ids.tolist()  # type: ignore[no-any-return]


def part(*names: str) -> Tensor:
    return torch.tensor([PARTS.index(name) for name in names])


def test_parts_share_nothing_and_everybody_owns_what_is_of_its_modality() -> None:
    data = Numbers(numbers(), val=0.1, test=0.2, public=0.25)
    parts = {name: set(data.rows(name).tolist()) for name in PARTS}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == SIZE
    assert [len(parts[name]) for name in ("val", "test")] == [12, 24]
    assert len(parts["public"]) == round(0.25 * 84)
    eyes = [owned(data, f"eyes/{i}") for i in range(3)]
    assert sorted(i for own in eyes for i in own) == sorted(parts["train"])
    heard = {i for i in parts["train"] if i % 5}
    assert set(owned(data, "ears/0")) == set(owned(data, "both/0")) == heard
    assert set(owned(data, "ears/0", "test")) == {i for i in parts["test"] if i % 5}
    assert data.private("eyes/0", "val") is data.private("eyes/2", "val")
    public = data.public_reader("train").batch(torch.arange(len(parts["public"])))
    assert public.views["image"].flatten().long().tolist() == sorted(parts["public"])  # type: ignore[union-attr]
    assert public.shown["audio"].tolist() == [bool(i % 5) for i in sorted(parts["public"])]


def test_two_draws_of_one_seed_are_one_and_of_two_are_two() -> None:
    def draw(seed: int) -> list[int]:
        return Numbers(numbers(), seed=seed).rows("test").tolist()  # type: ignore[no-any-return]

    assert draw(0) == draw(0) != draw(1)


@pytest.mark.parametrize("named", [["val"], ["test"], ["public"], ["val", "test", "public"]])
def test_parts_that_are_named_are_not_drawn(named: Sequence[str]) -> None:
    """What is named lies in its first samples; of the rest the others are drawn."""
    given = torch.full((SIZE,), DRAWN)
    for i, name in enumerate(named):
        given[10 * i : 10 * i + 10] = PARTS.index(name)
    data = Numbers(numbers(part=given))
    for i, name in enumerate(named):
        assert data.rows(name).tolist() == list(range(10 * i, 10 * i + 10))
    for name in {*PARTS} - {*named}:
        assert len(data.rows(name)) > 0


def test_of_training_samples_the_parts_are_drawn_that_are_not_named() -> None:
    """As of sets that come as training and test samples."""
    given = part("train").repeat(SIZE)
    given[100:] = PARTS.index("test")
    data = Numbers(numbers(part=given), val=0.1, public=0.5)
    assert data.rows("test").tolist() == list(range(100, SIZE))
    assert len(data.rows("val")) == 10
    assert len(data.rows("public")) == 45


def test_labels_of_public_samples_change_nothing() -> None:
    """Which samples are public, and who owns the others, is the same whatever public labels are."""
    given = torch.full((SIZE,), DRAWN)
    given[:30] = PARTS.index("public")
    y = torch.arange(SIZE) % CLASSES
    hidden = y.clone()
    hidden[:30] = NO_LABEL
    one, other = (Numbers(numbers(part=given, y=labels)) for labels in (y, hidden))
    for peer in PEERS:
        assert owned(one, peer) == owned(other, peer)


def test_public_samples_are_drawn_without_a_look_at_labels() -> None:
    given = part("train").repeat(SIZE)
    given[80:100], given[100:] = PARTS.index("val"), PARTS.index("test")
    y = torch.arange(SIZE) % CLASSES
    draws = [
        Numbers(numbers(part=given, y=labels)).rows("public").tolist() for labels in (y, y.flip(0), y * 0)
    ]
    assert draws[0] == draws[1] == draws[2]
    assert len(draws[0]) == 16  # a fifth of 80


@pytest.mark.parametrize(("share", "groups"), [(0.0, 0), (0.01, 1), (0.25, 2)])
def test_public_are_whole_groups_and_at_least_one(share: float, groups: int) -> None:
    """Of ten groups eight are for training, and a quarter of these is two."""
    group, given = torch.arange(SIZE) // 12, part("train").repeat(SIZE)
    given[96:108], given[108:] = PARTS.index("val"), PARTS.index("test")
    data = [Numbers(numbers(part=given, group=group), public=share, seed=seed) for seed in range(5)]
    drawn = [{int(group[i]) for i in own.rows("public")} for own in data]
    assert {len(own.rows("public")) for own in data} == {12 * groups}
    assert {*map(len, drawn)} == {groups}
    assert len({*map(frozenset, drawn)}) > 1 or not groups


def test_groups_are_dealt_whole() -> None:
    """Twenty persons, of whom none is in two parts or of two peers."""
    person = torch.arange(SIZE) // 6
    data = Numbers(numbers(group=person))
    parts = [{int(person[i]) for i in data.rows(name)} for name in PARTS]
    assert all(parts)
    assert sum(map(len, parts)) == 20
    eyes = [{int(person[i]) for i in owned(data, f"eyes/{k}")} for k in range(3)]
    assert len(set.union(*eyes)) == sum(map(len, eyes))


def test_owners_own_what_is_theirs_and_none_of_it_is_public() -> None:
    owner = [["eyes/0", "eyes/1", "", "ears/0"][i % 4] for i in range(SIZE)]
    data = Numbers(numbers(owner=owner))
    for i, peer in ((0, "eyes/0"), (1, "eyes/1"), (3, "ears/0")):
        assert {k % 4 for k in owned(data, peer)} == {i}
    assert {k % 4 for k in data.rows("public").tolist()} == {2}
    assert owned(data, "eyes/2") == []


def test_a_partition_may_be_given() -> None:
    data = Numbers(numbers(), partition=IID())
    sizes = [len(owned(data, f"eyes/{i}")) for i in range(3)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("given", "how", "said"),
    [
        ({"owner": ["nobody"] * SIZE}, {}, "'nobody' owns samples and is no peer"),
        (
            {"group": torch.arange(SIZE) // 60},
            {"val": 0.0, "test": 0.5, "public": 0.0},
            "no sample is left for val",
        ),
        ({"y": torch.full((SIZE,), NO_LABEL)}, {}, "only public samples may be without a label"),
        ({"group": torch.arange(SIZE) // 24}, {"val": 0.3, "test": 0.3}, "groups cannot be dealt to 3 peers"),
    ],
)
def test_what_cannot_be_is_one_line(given: dict[str, Any], how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Numbers(numbers(**given), **how).private("eyes/0", "train")


def test_shares_leave_something() -> None:
    with pytest.raises(ConfigError, match="val and test are shares that leave something"):
        Numbers(numbers(), val=0.5, test=0.5)
