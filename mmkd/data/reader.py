"""Samples as they enter: whatever is wrong with them is one line that says whose they are, and which.

Samples in memory are looked through once, all together; those of other data sets as they are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path, tree_map
from torch.utils.data import Dataset

from mmkd.data.padding import trimmed
from mmkd.data.samples import PublicSamples, Samples, labels_of, take_private, take_public
from mmkd.students.labels import AsGiven, LabelError, Labels
from mmkd.types import SHOWN, Batch, ConfigError, Public, Views

_T = TypeVar("_T")
_Before: TypeAlias = dict[str, tuple[str, str]]  # kind and make of the first sample, or of its views
_Odd: TypeAlias = Callable[[Any, _Before], str]


class Reader:
    """Reads labelled samples.

    Args:
        data: map-style data set of ``(x, y)`` or ``(x, y, id)``.
        whose: names the samples in errors.
        labels: kind of their labels.

    Raises:
        ConfigError: the data set has no length; or it is held in memory, and a sample is wrong.
    """

    def __init__(self, data: Dataset[Any], whose: str = "the samples", labels: Labels | None = None) -> None:
        self._data, self._whose, self._labels = data, whose, labels or AsGiven()
        self._size = length(data, whose)
        self.held: Samples | None = data if type(data) is Samples else None
        """The samples, if they are in memory and may be gathered in any way."""
        self.y: Tensor | None = None
        """Labels of all samples in memory, as students read them."""
        self.labelled: Tensor | None = None
        """Which samples in memory have a label; None, if all have one."""
        if self.held is not None:
            self.y, self.labelled = self._look_through(self.held)

    def __len__(self) -> int:
        return self._size

    def batch(self, places: Tensor, key: int) -> Batch:
        """The samples at ``places``.

        Raises:
            ConfigError: one of them cannot be read, or is wrong.
        """
        if self.held is not None:
            x, y, ids = self.held.take(places)
            if self.y is not self.held.y:
                y = cast(Tensor, self.y).index_select(0, places)
            labelled = None if self.labelled is None else self.labelled.index_select(0, places)
            return Batch(trimmed(x), y, ids, key, labelled=labelled)
        batch = self._tried(lambda: take_private(self._data, places, key), places)
        y = self._read(cast(Tensor, batch.y), places)
        if len(y) != len(places):
            raise ConfigError(f"{self._whose}: {len(places)} were asked for, and {len(y)} came")
        self._refuse_not_finite(batch.x, places)
        return batch._replace(y=y, labelled=self._labels.labelled(y))

    def all_labels(self) -> Tensor:
        """Labels of all samples, ``[samples, ...]``; of data sets that are not in memory, all are read.

        Raises:
            ConfigError: one of them cannot be read, or is wrong.
        """
        if self.y is not None:
            return self.y
        places = torch.arange(self._size)
        return self._read(self._tried(lambda: labels_of(self._data), places), places)

    def _look_through(self, samples: Samples) -> tuple[Tensor, Tensor | None]:
        """Labels as students read them, and which are there; found once for each kind of labels."""
        before = samples.looked_through.get(self._labels)
        if before is not None and before[0] is samples.x and before[1] is samples.y:
            return before[2]
        sizes = {
            "x" + "".join(map(str, path)): len(x) for path, x in tree_flatten_with_path(samples.x)[0]
        } | {"y": len(samples.y), "ids": len(samples.ids)}
        if len(set(sizes.values())) != 1:
            raise ConfigError(f"{self._whose} are of unequal length: {sizes}")
        places = torch.arange(self._size)
        y = self._read(samples.y, places)
        self._refuse_not_finite(samples.x, places)
        found = (y, self._labels.labelled(y))
        samples.looked_through[self._labels] = samples.x, samples.y, found
        return found

    def _read(self, y: Tensor, places: Tensor) -> Tensor:
        try:
            return self._labels.read(y)
        except LabelError as error:
            first = "" if error.place is None else f" (first: sample {int(places[error.place])})"
            raise ConfigError(f"{self._whose} have {error}{first}") from error

    def _refuse_not_finite(self, x: Views, places: Tensor) -> None:
        wrong = not_finite(x)
        if wrong is not None:
            raise ConfigError(
                f"sample {int(places[wrong])} of {self._whose} holds a number that is not finite; leave the"
                " sample out, put another number there, or say that the view is missing"
            )

    def _tried(self, read: Callable[[], _T], places: Tensor) -> _T:
        return _tried(read, self._data, places, self._whose, _odd_private)


class PublicReader:
    """Reads public samples.

    Args:
        data: map-style data set of ``{modality: view or None}``.

    Raises:
        ConfigError: it has no length; or it is held in memory, and a sample is wrong.
    """

    def __init__(self, data: Dataset[Any]) -> None:
        self._data, self._whose = data, "the public samples"
        self._size = length(data, self._whose)
        self._held = type(data) is PublicSamples
        if isinstance(data, PublicSamples) and self._held and not data.looked_through:
            self._refuse_not_finite(data.views, torch.arange(self._size))
            data.looked_through = True

    def __len__(self) -> int:
        return self._size

    def batch(self, places: Tensor) -> Public:
        """The samples at ``places``.

        Raises:
            ConfigError: one of them cannot be read, or is wrong.
        """
        if self._held:
            return take_public(self._data, places)
        public = _tried(lambda: take_public(self._data, places), self._data, places, self._whose, _odd_public)
        self._refuse_not_finite(public.views | {SHOWN + m: s for m, s in public.shown.items()}, places)
        return public

    def _refuse_not_finite(self, views: Views, places: Tensor) -> None:
        wrong = not_finite(views)
        if wrong is not None:
            raise ConfigError(
                f"sample {int(places[wrong])} of {self._whose} holds a number that is not finite; leave the"
                " sample out, put another number there, or None for the view"
            )


def pieces(size: int, most: int) -> list[Tensor]:
    """Places of ``size`` samples in order, at most so many at a time; none of no samples."""
    return list(torch.arange(size).split(most)) if size else []


def not_finite(x: Views) -> int | None:
    """The first sample that holds a number which is not finite where its view is there."""
    for path, leaf in tree_flatten_with_path(x)[0]:
        # A sum tells in one pass; one that overflows of itself is looked at again.
        if not leaf.is_floating_point() or bool(leaf.sum().isfinite()):
            continue
        wrong = ~leaf.reshape(len(leaf), -1).isfinite().all(1)
        shown = x.get(SHOWN + str(cast(Any, path[0]).key)) if isinstance(x, dict) else None
        if shown is not None:
            wrong &= shown
        if bool(wrong.any()):
            return int(wrong.nonzero()[0])
    return None


def length(data: Any, whose: str) -> int:
    """How many samples a data set says that it has.

    Raises:
        ConfigError: it does not say.
    """
    try:
        return len(data)
    except Exception as error:
        raise ConfigError(
            f"{whose} are of type {type(data).__name__}, whose length cannot be told ({_said(error)});"
            " give a map-style data set, which has __len__ and __getitem__"
        ) from error


def _tried(read: Callable[[], _T], data: Any, places: Tensor, whose: str, odd: _Odd) -> _T:
    """What is read; if that fails, samples are read one by one to find the first to blame."""
    try:
        return read()
    except Exception as error:  # whatever somebody else's data set may run into
        gathers = hasattr(data, "take")  # a whole batch at once, of which no sample is to blame
        said = "" if gathers else _blame(data, places.tolist(), whose, odd)
        raise ConfigError(said or f"{whose} cannot be read: {_said(error)}") from error


def _blame(data: Any, places: list[int], whose: str, odd: _Odd) -> str:
    """What is wrong with the first sample that cannot be read, or is ``odd`` beside those before it."""
    before: _Before = {}
    for i in places:
        try:
            why = odd(data[i], before)
        except Exception as error:
            ends = f"; their length says that there are {len(data)}" if isinstance(error, IndexError) else ""
            return f"sample {i} of {whose} cannot be read: {_said(error)}{ends}"
        if why:
            return f"sample {i} of {whose} is {why}"
    return ""


def _odd_private(sample: Any, before: _Before) -> str:
    """Why a labelled sample cannot be collated with those before it, if it cannot."""
    made = _made(sample)
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        return f"{made}, and neither (x, y) nor (x, y, id)"
    if "NoneType" in made:
        return f"{made}: leave it out, or write NO_LABEL where only a label is missing"
    kind = str([_of_any_length(_made(sample[0])), *map(_made, sample[1:])])
    other, first = before.setdefault("sample", (kind, made))
    return "" if kind == other else f"{made}, where others are {first}: make them alike"


def _odd_public(sample: Any, before: _Before) -> str:
    """Why a public sample cannot be collated with those before it, if it cannot."""
    if not isinstance(sample, Mapping):
        return f"{_made(sample)}, and not a dictionary of a view or None for each modality"
    for modality, view in sample.items():
        made = _made(view)
        kind = _of_any_length(made)
        other, first = before.setdefault(modality, (kind, made)) if view is not None else (kind, made)
        if kind != other:
            return f"{made} as {modality}, where others are {first}: make them alike"
    return ""


def _made(sample: Any) -> str:
    """Of what a sample is made: types, and shapes of tensors."""

    def of(leaf: Any) -> str:
        if not hasattr(leaf, "shape"):
            return type(leaf).__name__
        return f"{str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}"

    return str(tree_map(of, sample)).replace("'", "")


def _of_any_length(made: str) -> str:
    """The same with no lengths of sequences, which are padded where they are unequal."""
    return re.sub(r"\[\d+\]", "[length]", made)


def _said(error: Exception) -> str:
    """An error in the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
