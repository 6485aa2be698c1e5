"""Batches from data sets that know nothing of mmkd, and from those that gather a batch at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from mmkd.data.samples import PublicSamples, Samples, labels_of, take_private, take_public, view_of
from mmkd.types import SHOWN, Public

X = torch.arange(12.0).reshape(6, 2)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
CHOSEN = torch.tensor([4, 0, 3])


class Listed(Dataset[Any]):
    """A plain map-style data set."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Any:
        return self.samples[i]


def test_pairs_and_triples_and_whole_tensors_give_the_same_batch() -> None:
    pairs = Listed([(x, int(y)) for x, y in zip(X, Y, strict=True)])
    triples = Listed([(x, y, i) for i, (x, y) in enumerate(zip(X, Y, strict=True))])
    for data in (pairs, triples, TensorDataset(X, Y), Samples(X, Y)):
        batch = take_private(data, CHOSEN, key=7)
        assert torch.equal(batch.x, X[CHOSEN])
        assert torch.equal(batch.y, Y[CHOSEN])
        assert batch.y.dtype == torch.int64
        assert torch.equal(batch.ids, CHOSEN)
        assert batch.key == 7
        assert torch.equal(labels_of(data), Y)


def test_boxes_stay_as_they_are() -> None:
    """As any floats do."""
    boxes = torch.tensor([[[0.25, 1.5, 2.75, 3.5, 0.0]]]).expand(len(X), 1, 5)
    for data in (Listed(list(zip(X, boxes, strict=True))), Samples(X, boxes)):
        assert torch.equal(take_private(data, CHOSEN, 0).y, boxes[CHOSEN])
    assert torch.equal(take_private(Samples(X, Y * 0.5), CHOSEN, 0).y, Y[CHOSEN] * 0.5)


def test_floats_stay_floats_and_whole_numbers_are_int64() -> None:
    """Targets of a regression are no classes, however they are stored; nor are those of many columns."""
    values = [0.25, 1.5, -2.0, 3.0, 0.0, 1.0]
    for data in (Listed(list(zip(X, values, strict=True))), Samples(X, torch.tensor(values))):
        y = take_private(data, CHOSEN, 0).y
        assert y is not None
        assert y.dtype == torch.float32
        assert y.tolist() == [0.0, 0.25, 3.0]
        assert labels_of(data).tolist() == values
    assert take_private(Samples(X, Y.int()), CHOSEN, 0).y.dtype == torch.int64  # type: ignore[union-attr]
    several = torch.eye(6, dtype=torch.int32)
    for data in (Listed(list(zip(X, several, strict=True))), Samples(X, several)):
        assert torch.equal(take_private(data, CHOSEN, 0).y, torch.eye(6).long()[CHOSEN])  # type: ignore[arg-type]


def test_ids_are_the_data_sets_own_and_stay_with_a_subset() -> None:
    ids = torch.tensor([10, 11, 12, 13, 14, 15])
    assert take_private(Samples(X, Y, ids).subset([5, 1]), torch.tensor([1, 0]), 0).ids.tolist() == [11, 15]
    named = Listed([(x, y, i) for x, y, i in zip(X, Y, ids, strict=True)])
    assert take_private(named, CHOSEN, 0).ids.tolist() == [14, 10, 13]


def test_views_of_several_parts_are_collated_part_by_part() -> None:
    data = Listed([({"token": x, "length": 2}, int(y)) for x, y in zip(X, Y, strict=True)])
    batch = take_private(data, CHOSEN, 0)
    assert torch.equal(batch.x["token"], X[CHOSEN])
    assert batch.x["length"].tolist() == [2, 2, 2]


def test_a_missing_view_is_zero_and_not_shown() -> None:
    def sample(i: int) -> dict[str, Tensor | None]:
        return {"image": X[i], "audio": None if i == 0 else X[i] + 100}

    public = take_public(Listed([sample(i) for i in range(6)]), CHOSEN)
    assert torch.equal(public.ids, CHOSEN)
    assert torch.equal(public.views["image"], X[CHOSEN])
    assert public.shown["image"].tolist() == [True, True, True]
    assert torch.equal(public.views["audio"], torch.stack([X[4] + 100, torch.zeros(2), X[3] + 100]))
    assert public.shown["audio"].tolist() == [True, False, True]


def test_a_modality_without_a_view_in_the_batch_is_absent() -> None:
    public = take_public(Listed([{"image": x, "audio": None} for x in X]), CHOSEN)
    assert set(public.views) == set(public.shown) == {"image"}


def test_tensors_say_which_views_they_lack() -> None:
    data = PublicSamples({"image": X, "audio": -X}, {"audio": torch.tensor([0, 1, 1, 1, 1, 0]).bool()})
    assert data[0]["audio"] is None
    assert torch.equal(data[1]["audio"], -X[1])
    public = take_public(data, torch.tensor([1, 0]))
    assert public.shown["audio"].tolist() == [True, False]
    assert public.shown["image"].tolist() == [True, True]


def test_dictionaries_of_views_are_taken_like_tensors() -> None:
    there = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    views = {"image": X, "sound": {"wave": -X, "rate": Y}, SHOWN + "sound": there}
    samples = Samples(views, Y, Y + 10)
    listed = Listed([samples[i] for i in range(len(samples))])
    for data, rows in ((samples, CHOSEN), (listed, CHOSEN), (samples.subset(CHOSEN), torch.arange(3))):
        batch = take_private(data, rows, 0)
        assert torch.equal(batch.x["image"], X[CHOSEN])
        assert torch.equal(batch.x["sound"]["wave"], -X[CHOSEN])
        assert torch.equal(batch.x["sound"]["rate"], Y[CHOSEN])
        assert torch.equal(batch.x[SHOWN + "sound"], there[CHOSEN])
        assert batch.x[SHOWN + "sound"].dtype == torch.bool
        assert torch.equal(batch.ids, Y[CHOSEN] + 10)


IMAGE, AUDIO = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()


def seen(modality: str) -> tuple[Any, list[bool]]:
    """What a peer reads of four samples that show both views, the image, the sound, none."""
    views = {"image": X[:4], "audio": -X[:4], "text": X[:4]}
    shown = {"image": IMAGE, "audio": AUDIO, "text": torch.zeros(4, dtype=torch.bool)}
    view, sees = view_of(Public(torch.arange(4), views, shown), modality)
    assert sees.dtype == torch.bool
    return view, sees.tolist()


def test_a_peer_of_one_modality_reads_its_view() -> None:
    view, sees = seen("audio")
    assert torch.equal(view, -X[:4])
    assert sees == AUDIO.tolist()


@pytest.mark.parametrize("modality", ["image+audio", "audio+image"])
def test_a_peer_of_several_sees_a_sample_if_one_view_is_there(modality: str) -> None:
    view, sees = seen(modality)
    assert set(view) == {"image", "audio", SHOWN + "image", SHOWN + "audio"}
    assert torch.equal(view["image"], X[:4])
    assert torch.equal(view["audio"], -X[:4])
    assert torch.equal(view[SHOWN + "image"], IMAGE)
    assert torch.equal(view[SHOWN + "audio"], AUDIO)
    assert sees == [True, True, True, False]


def test_a_view_that_nobody_has_is_left_out() -> None:
    view, sees = seen("image+smell")
    assert set(view) == {"image", SHOWN + "image"}
    assert sees == IMAGE.tolist()


@pytest.mark.parametrize("modality", ["smell", "text", "smell+taste", "smell+text"])
def test_who_sees_no_sample_reads_nothing(modality: str) -> None:
    assert seen(modality) == (None, [False] * 4)
