"""Whatever is wrong with samples is refused where they enter, in one line with peer, split and sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.data.loading import EvaluationLoader, LoneLoader, plainly
from mmkd.data.reader import Reader, pieces
from mmkd.functional.detection.boxes import EMPTY
from mmkd.students.labels import AsGiven, BoxLabels, ClassLabels, Labels
from mmkd.types import NO_LABEL, SHOWN, ConfigError, Padded

X = torch.arange(12.0).reshape(6, 2)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
BOXES = torch.tensor([[[4.0, 2, 20, 12, 0], [0, 0, 0, 0, EMPTY]]]).repeat(6, 1, 1)
CLASSES, OBJECTS = ClassLabels(3), BoxLabels(2)


class Given(PeerDataModule):
    """Whatever a test gives, as the validation samples of a peer and as public samples."""

    num_classes, modalities = 3, ("v",)

    def __init__(self, private: Any = None, public: Any = None, labels: Labels = CLASSES) -> None:
        super().__init__(peers={"a/0": "v"})
        self._private, self._public = private, public
        self.labels = {"val": {"a/0": labels}}

    def private(self, peer: str, split: str) -> Any:
        return self._private

    def public(self, split: str) -> Any:
        return self._public

    def public_labels(self) -> Tensor:
        return self._private


class Listed(Dataset[Any]):
    """A plain map-style data set, which says of itself how long it is."""

    def __init__(self, samples: Any, size: int | None = None) -> None:
        self.samples, self.size = samples, len(samples) if size is None else size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Any:
        sample = self.samples[i]
        if isinstance(sample, Exception):
            raise sample
        return sample


class Taking(Listed):
    """One that gathers a batch by itself."""

    def take(self, places: Tensor) -> Any:
        return self.samples(places)


class Endless:
    """One without a length."""

    def __getitem__(self, i: int) -> Any:
        return X[0], 0


def at(i: int, value: Any, of: Any = None) -> list[Any]:
    """Samples, or others that are given, of which one is another."""
    listed = list(zip(X, Y.tolist(), strict=True)) if of is None else list(of)
    return [*listed[:i], value, *listed[i + 1 :]]


def changed(tensor: Tensor, where: Any, value: Any) -> Tensor:
    tensor = tensor.clone()
    tensor[where] = value
    return tensor


def as_boxes(change: Callable[[Tensor], Any]) -> Callable[[], Any]:
    return lambda: Samples(X, change(BOXES.clone()))


WHOSE = "of the val samples of peer 'a/0'"
ALL = "the val samples of peer 'a/0' have labels"
CLASS = "and classes are whole numbers from 0 to 2"
PRIVATE: dict[str, tuple[Callable[[], Any], Labels, str]] = {
    "counted from 1": (lambda: Samples(X, Y + 1), CLASSES, f"{ALL} 3, {CLASS}: count them from 0 .first: sample 2"),
    "-1 for no label": (
        lambda: Samples(X, changed(Y, 4, -1)),
        CLASSES,
        f"{ALL} -1, {CLASS}: write -100 where a sample has none .first: sample 4",
    ),
    "one-hot": (lambda: Samples(X, torch.eye(3).long()[Y]), CLASSES, rf"{ALL} of shape \[3\], .*: use y.argmax\(1\)"),
    "a column": (lambda: Samples(X, Y[:, None]), CLASSES, rf"{ALL} of shape \[1\], .*: use y.squeeze\(1\)"),
    "boxes for a classifier": (lambda: Samples(X, BOXES), CLASSES, rf"{ALL} of shape \[2, 5\]"),
    "numbers to regress": (
        lambda: Samples(X, Y * 0.5),
        CLASSES,
        f"{ALL} 0.5, {CLASS}: a student that learns numbers says so in learns_from .first: sample 1",
    ),
    "shares that are no probabilities": (
        lambda: Samples(X, changed(torch.eye(3)[Y], (2, 0), 0.5)),
        CLASSES,
        rf"{ALL} \[0.5, 0, 1\], and probabilities of classes are not negative and sum to 1: .* .first: sample 2",
    ),
    "negative shares": (
        lambda: Samples(X, changed(torch.eye(3)[Y], 4, torch.tensor([1.5, -0.5, 0]))),
        CLASSES,
        rf"{ALL} \[1.5, -0.5, 0\], and probabilities .*sample 4",
    ),
    "nan as label": (lambda: Samples(X, changed(Y * 1.0, 3, torch.nan)), CLASSES, f"{ALL} nan, .*sample 3"),
    "listed, counted from 1": (lambda: Listed(at(5, (X[5], 3))), CLASSES, f"{ALL} 3, .*sample 5"),
    "listed, no label": (
        lambda: Listed(at(2, (X[2], None))),
        CLASSES,
        f"sample 2 {WHOSE} is .float32 .2., NoneType.: leave it out, or write NO_LABEL",
    ),
    "listed, words": (lambda: Listed([(x, "cat") for x in X]), CLASSES, "the val samples of peer 'a/0' cannot be read: "),
    "unequal lengths": (lambda: Samples(X, Y[:5]), CLASSES, f"{ALL[:-12]} are of unequal length: .*'x': 6, 'y': 5"),
    "unequal views": (lambda: Samples({"l": X, "r": X[:4]}, Y), CLASSES, "unequal length: .*6.*'r'.*4"),
    "unequal ids": (lambda: Samples(X, Y, Y[:3]), CLASSES, "unequal length: .*'ids': 3"),
    "nan": (lambda: Samples(changed(X, (3, 1), torch.nan), Y), CLASSES, f"sample 3 {WHOSE} holds a number that is not"),
    "infinite, in a view": (
        lambda: Samples({"l": X, "r": changed(X, (5, 0), -torch.inf)}, Y),
        CLASSES,
        f"sample 5 {WHOSE} holds",
    ),
    "listed, nan": (lambda: Listed(at(1, (X[1] * torch.nan, 0))), CLASSES, f"sample 1 {WHOSE} holds"),
    "raises": (
        lambda: Listed(at(4, OSError("no such file: 4.png"))),
        CLASSES,
        f"sample 4 {WHOSE} cannot be read: OSError: no such file: 4.png",
    ),
    "too short": (
        lambda: Listed(at(0, (X[0], 0))[:4], 6),
        CLASSES,
        f"sample 4 {WHOSE} cannot be read: IndexError: .*; their length says that there are 6",
    ),
    "no length": (lambda: Endless(), CLASSES, "val samples of peer 'a/0' are of type Endless, whose length"),
    "nothing at all": (lambda: None, CLASSES, "val samples of peer 'a/0' are of type NoneType, whose length"),
    "another width": (
        lambda: Listed(at(3, (X[3:4, :1], 0), [(x[None], 0) for x in X])),
        CLASSES,
        rf"sample 3 {WHOSE} is .float32 \[1, 1\], int., where others are .float32 \[1, 2\], int.: make them alike",
    ),
    "a frame among sequences": (
        lambda: Listed(at(3, (X[3:4], 0), at(1, (X[1, :1], 0)))),
        CLASSES,
        rf"sample 3 {WHOSE} is .float32 \[1, 2\], int., where others are .float32 \[2\], int.: make them alike",
    ),
    "a sample that is None": (lambda: Listed(at(1, None)), CLASSES, f"sample 1 {WHOSE} is NoneType, and neither"),
    "x that is None": (lambda: Listed([(None, 0)] * 6), CLASSES, f"sample 0 {WHOSE} is .NoneType, int."),
    "bare tensors": (lambda: Listed(X), CLASSES, rf"sample 0 {WHOSE} is float32 \[2\], and neither .x, y. nor"),
    "one part": (lambda: Listed([(X[0],)] * 6), CLASSES, f"sample 0 {WHOSE} is .*neither"),
    "takes too few": (
        lambda: Taking(lambda p: (X[p][:2], Y[p][:2], p[:2]), 6),
        CLASSES,
        "val samples of peer 'a/0': 6 were asked for, and 2 came",
    ),
    "takes and raises": (lambda: Taking(lambda p: {}["x"], 6), CLASSES, "peer 'a/0'.*KeyError: 'x'"),
    "x, y, width, height": (
        as_boxes(lambda y: changed(y, (2, 0, slice(4)), torch.tensor([20.0, 12, 4, 2]))),
        OBJECTS,
        r"\[20, 12, 4, 2, 0\], a box that ends before it begins; .*and no width and height .first: sample 2",
    ),
    "shares of the frame": (as_boxes(lambda y: torch.cat([y[..., :4] / 64, y[..., 4:]], -1)), OBJECTS, f"{ALL[:-7]}.*give pixels, and no shares of the frame"),
    "nan box": (as_boxes(lambda y: changed(y, (5, 0, 1), torch.nan)), OBJECTS, r"nan, .*not finite; .*sample 5"),
    "box classes from 1": (
        as_boxes(lambda y: changed(y, (1, 0, 4), 2)),
        OBJECTS,
        r"\[4, 2, 20, 12, 2\], a box of a class that is none; .* from 0 to 1, .*: count them from 0 .first: sample 1",
    ),
    "boxes with scores": (as_boxes(lambda y: torch.cat([y, y[..., :1]], -1)), OBJECTS, r"of shape \[2, 6\]"),
    "classes for a detector": (lambda: Samples(X, Y), OBJECTS, r"of shape \[\] and type int64, and boxes are"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "labels", "said"), PRIVATE.values(), ids=PRIVATE)
def test_odd_samples_are_refused(make: Callable[[], Any], labels: Labels, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        Given(make(), labels=labels).reader("a/0", "val").batch(torch.arange(6), 0)
    assert "\n" not in str(raised.value)
    assert "the val samples of peer 'a/0'" in str(raised.value)


HIDDEN = torch.tensor([1, 1, 0, 1, 1, 1]).bool()
PUBLIC: dict[str, tuple[Callable[[], Any], str]] = {
    "unequal lengths": (lambda: PublicSamples({"v": X, "w": X[:4]}), "of equal length, not {'v': 6, 'w': 4}"),
    "unequal shown": (lambda: PublicSamples({"v": X}, {"v": HIDDEN[:2]}), "of equal length, not .*'shown of v': 2"),
    "no views": (lambda: PublicSamples({}), "of equal length, not {}"),
    "no samples": (lambda: PublicSamples({"v": X[:0]}), "there are no public samples"),
    "words": (lambda: PublicSamples({"v": ["one", "two"]}), "samples are tensors or arrays of numbers"),
    "nan": (lambda: PublicSamples({"v": changed(X, 4, torch.nan)}), "sample 4 of the public samples holds a number"),
    "listed, nan": (lambda: Listed(at(2, {"v": X[2] * torch.nan}, [{"v": x} for x in X])), "sample 2 of the public"),
    "raises": (lambda: Listed(at(1, OSError("gone"), [{"v": x} for x in X])), "sample 1 of .* read: OSError: gone"),
    "bare tensors": (lambda: Listed(X), "sample 0 of the public samples is .*, and not a dictionary of a view"),
    "widths": (
        lambda: Listed(at(3, {"v": X[3:4, :1]}, [{"v": x[None]} for x in X])),
        r"sample 3 of the public samples is float32 \[1, 1\] as v, where others are float32 \[1, 2\]",
    ),
    "no length": (lambda: Endless(), "the public samples are of type Endless, whose length cannot be told"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "said"), PUBLIC.values(), ids=PUBLIC)
def test_odd_public_samples_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Given(public=make()).public_reader("train").batch(torch.arange(6))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (Y[:5], "6 public samples and 5 labels"),
        (Y + 1, "labels 3, .*count them from 0 .first: sample 2"),
        (torch.eye(3)[Y], r"labels of shape \[3\], and a class is one whole number"),
    ],
)
def test_odd_labels_of_public_samples_are_refused(labels: Tensor, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Given(labels, PublicSamples({"v": X})).read_public_labels()


SOFT = torch.tensor([[0.2, 0.5, 0.3], [1, 0, 0], [0, 0.4995, 0.5]]).repeat(2, 1)
FINE: dict[str, tuple[Any, Labels, Any]] = {
    "NumPy": (Y.numpy(), CLASSES, Y),
    "a list": (Y.tolist(), CLASSES, Y),
    "bytes": (Y.to(torch.uint8), CLASSES, Y),
    "whole floats": (Y * 1.0, CLASSES, Y),
    "truths": (Y > 0, CLASSES, (Y > 0).long()),
    "no label": (changed(Y, 1, NO_LABEL), CLASSES, changed(Y, 1, NO_LABEL)),
    "numbers": (Y * 0.7, AsGiven(), Y * 0.7),
    "soft labels": (SOFT, CLASSES, SOFT),
    "several labels": (torch.eye(3)[Y], AsGiven(), torch.eye(3)[Y]),
    "boxes": (BOXES, OBJECTS, BOXES),
    "no slots": (BOXES[:, :0], OBJECTS, BOXES[:, :0]),
    "an empty frame": (changed(BOXES, (0, slice(None), 4), EMPTY), OBJECTS, changed(BOXES, (0, slice(None), 4), EMPTY)),
}  # fmt: skip


def test_rows_with_nan_have_no_label() -> None:
    """Other samples have theirs, in memory and from a list alike."""
    y = changed(SOFT, ([1, 4], [0, 2]), torch.nan)
    for data in (Samples(X, y), Listed(list(zip(X, y, strict=True)))):
        batch = Reader(data, labels=CLASSES).batch(torch.arange(6), 0)
        assert batch.labelled is not None
        assert batch.labelled.tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize(("y", "labels", "expected"), FINE.values(), ids=FINE)
def test_what_can_be_read_is_read_as_given(y: Any, labels: Labels, expected: Tensor) -> None:
    """In memory and from a list alike; targets of an objective of one's own as they are."""
    for data in (Samples(X, y), Listed([(x, one) for x, one in zip(X, y, strict=True)])):
        batch = Reader(data, labels=labels).batch(torch.arange(6), 0)
        assert torch.equal(batch.y, expected)
        assert batch.y.dtype == expected.dtype
        there = None if not bool((expected == NO_LABEL).any()) else expected != NO_LABEL
        assert (batch.labelled is None) == (there is None)
        assert there is None or torch.equal(batch.labelled, there)


def test_numbers_of_python_are_of_the_default_type() -> None:
    """They are collated in double precision, which no student of single precision can be compared with."""
    batch = Reader(Listed([(x, 0.5) for x in X])).batch(torch.arange(2), 0)
    assert batch.y is not None
    assert batch.y.dtype == torch.float32


def test_sequences_of_unequal_length_are_padded_and_no_longer_than_need_be() -> None:
    x = Padded(torch.ones(6, 4), torch.tensor([1, 2, 3, 4, 4, 4]))
    places = torch.tensor([0, 2])
    for data in (Samples(x, Y), Listed([(torch.ones(n), 0) for n in x.lengths])):
        batch = Given(data).reader("a/0", "val").batch(places, 0)
        assert batch.x.values.shape == (2, 3)
        assert batch.x.lengths.tolist() == [1, 3]
    for public in (PublicSamples({"v": x}), Listed([{"v": torch.ones(n)} for n in x.lengths])):
        assert Given(public=public).public_reader("train").batch(places).views["v"].lengths.tolist() == [1, 3]
    with pytest.raises(ConfigError, match=r"sample 3 .* holds a number that is not finite"):
        Reader(Samples({"v": Padded(changed(x.values, (3, 0), torch.nan), x.lengths)}, Y))


def test_anything_may_stand_where_a_view_is_missing() -> None:
    hidden = {"v": changed(X, ~HIDDEN, torch.nan), SHOWN + "v": HIDDEN}
    assert bool(Reader(Samples(hidden, Y)).batch(torch.arange(6), 0).x["v"].isnan().any())
    PublicSamples({"v": changed(X, ~HIDDEN, torch.nan)}, {"v": HIDDEN})


def test_great_numbers_are_finite() -> None:
    """Their sum is not."""
    Reader(Samples(X + torch.finfo(torch.float32).max / 2, Y))


def test_samples_in_memory_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each kind of labels, however many read them; labels that were replaced are others."""
    looks: list[int] = []
    read = ClassLabels.read
    monkeypatch.setattr(ClassLabels, "read", lambda kind, y: looks.append(len(y)) or read(kind, y))
    samples = Samples(X, Y)
    for _ in range(3):
        Reader(samples, labels=ClassLabels(3)).batch(torch.arange(2), 0)
    assert looks == [6]
    samples.y = Y + 1
    with pytest.raises(ConfigError):
        Reader(samples, labels=ClassLabels(3))


def test_labels_are_counted_where_there_are_any() -> None:
    """Two of class 0, one of 1 and two of 2: position 1 has lost its label. Six boxes of class 0."""
    counts = Given(Samples(X, changed(Y, 1, NO_LABEL))).label_counts("a/0")
    assert counts.tolist() == [2, 1, 2]
    assert Given(Listed(list(zip(X, Y, strict=True)))).label_counts("a/0").tolist() == [2, 2, 2]
    assert Given(Samples(X, BOXES)).label_counts("a/0").tolist() == [6, 0, 0]
    assert Given(Samples(X, Y * 0.5)).label_counts("a/0").tolist() == [2 + 2 - 2, 2, 0]  # 0, .5, 1 twice each


@pytest.mark.parametrize("sizes", [[0], [0, 5], [5, 0, 4], [8, 0]])
def test_a_loader_is_as_long_as_it_says(sizes: list[int]) -> None:
    """Nobody without samples is evaluated, and nobody behind is forgotten."""
    readers = [(Reader(Samples(X[:1].repeat(n, 1), torch.zeros(n))), [f"a/{i}"]) for i, n in enumerate(sizes)]
    loader = EvaluationLoader(readers, 4)
    found = [batch.peers[0] for batch in loader]
    assert len(loader) == len(found)
    assert set(found) == {f"a/{i}" for i, n in enumerate(sizes) if n}
    for n in sizes:
        lone = LoneLoader(Given(Samples(X[:1].repeat(n, 1), torch.zeros(n))), "a/0", "val")
        assert len(list(lone)) == len(lone) == min(n, 1)
    assert [len(piece) for piece in pieces(9, 4)] == [4, 4, 1]


def test_an_error_of_a_worker_is_its_line() -> None:
    def worker() -> Any:
        yield from ()
        raise ConfigError(
            "Caught ConfigError in worker 0.\nTraceback ...\nmmkd.types.ConfigError: sample 3 is odd\n"
        )

    with pytest.raises(ConfigError, match=r"^sample 3 is odd$"):
        list(plainly(worker()))
