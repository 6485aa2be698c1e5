"""Which labels students read: classes, boxes, or whatever is given.

Here alone is written which labels are right; whoever reads samples asks for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from mmkd.functional.detection.boxes import EMPTY, KNOWN, UNLABELLED
from mmkd.types import NO_LABEL

SHOWN_VALUES = 5
"""Wrong values that an error lists at most."""
SUM_IS_ONE = 1e-3
"""How far the sum of probabilities may be from 1."""


class LabelError(ValueError):
    """Labels that cannot be read.

    Args:
        why: what is wrong and what to do.
        place: where the first sample with a wrong label stands among those given; None if all are wrong.
    """

    def __init__(self, why: str, place: int | None = None) -> None:
        super().__init__(why)
        self.place = place


class Labels(ABC):
    """A kind of labels. Two that compare equal read the same, so that nobody looks at labels twice."""

    @abstractmethod
    def read(self, y: Tensor) -> Tensor:
        """Labels ``[samples, ...]`` as a student reads them.

        Raises:
            LabelError: they are no such labels.
        """

    def labelled(self, y: Tensor) -> Bool[Tensor, " samples"] | None:
        """Which samples have a label; None where all have one."""
        return None


@dataclass(frozen=True)
class AsGiven(Labels):
    """Targets of an objective of one's own: whatever they are, nobody looks at them or changes them."""

    def read(self, y: Tensor) -> Tensor:
        """The same tensor."""
        return y


@dataclass(frozen=True)
class ClassLabels(Labels):
    """One class a sample, a whole number from 0, or ``NO_LABEL``; or soft labels, probabilities of classes.

    A row of probabilities with NaN among them stands for no label.

    Args:
        num_classes: number of classes.
    """

    num_classes: int

    def read(self, y: Tensor) -> Tensor:
        """Classes ``[samples]`` as int64, even if they come as floats; or soft labels as they are."""
        if y.is_floating_point() and y.shape[1:] == (self.num_classes,):
            return self._probabilities(y)
        if y.dim() != 1:
            shape = list(y.shape[1:])
            advice = {"[1]": "use y.squeeze(1)", f"[{self.num_classes}]": "use y.argmax(1)"}.get(str(shape))
            raise LabelError(
                f"labels of shape {shape}, and a class is one whole number a sample"
                + (f": {advice}" if advice else "; a student that reads others says so in learns_from")
            )
        if not len(y):
            return y.long()
        least, most = (float(value) for value in y.aminmax())
        whole = not y.is_floating_point() or bool((y == y.floor()).all())
        if not (whole and least >= 0 and most < self.num_classes):
            known = (y == y.floor()) & (y >= 0) & (y < self.num_classes) | (y == NO_LABEL)
            if not bool(known.all()):
                raise self._wrong(y, ~known)
        return y.long()

    def _probabilities(self, y: Tensor) -> Tensor:
        wrong = ((y < 0).any(1) | ((y.sum(1) - 1).abs() > SUM_IS_ONE)) & ~y.isnan().any(1)
        if bool(wrong.any()):
            row = ", ".join(f"{value:g}" for value in y[wrong][0, :SHOWN_VALUES].tolist())
            more = ", ..." if self.num_classes > SHOWN_VALUES else ""
            raise LabelError(
                f"labels [{row}{more}], and probabilities of classes are not negative and sum to 1: several"
                " tags a sample are for a Tagger, values for a Regressor",
                int(wrong.nonzero()[0]),
            )
        return y

    def _wrong(self, y: Tensor, wrong: Tensor) -> LabelError:
        values = y[wrong].unique()[:SHOWN_VALUES].tolist()
        advice = f"write {NO_LABEL} where a sample has none"
        if float(y.min()) == 1 and float(y.max()) == self.num_classes:
            advice = "count them from 0"
        elif y.is_floating_point() and bool((y != y.floor()).any()):
            advice = "a student that learns numbers says so in learns_from"
        said = ", ".join(f"{value:g}" for value in values)
        return LabelError(
            f"labels {said}, and classes are whole numbers from 0 to {self.num_classes - 1}: {advice}",
            int(wrong.nonzero()[0]),
        )

    def labelled(self, y: Tensor) -> Bool[Tensor, " samples"] | None:
        """Samples whose class is not ``NO_LABEL``, or whose probabilities are known."""
        there = ~y.isnan().any(1) if y.dim() == 2 else y != NO_LABEL
        return None if bool(there.all()) else there


@dataclass(frozen=True)
class BoxLabels(Labels):
    """Boxes in slots, ``[samples, slots, 5]``: corners x1, y1, x2 and y2 in pixels, and a class.

    A class is a whole number from 0, or ``EMPTY``, ``KNOWN`` or ``UNLABELLED``.

    Args:
        num_classes: number of classes.
    """

    num_classes: int

    def read(self, y: Tensor) -> Tensor:
        """The same boxes."""
        if y.dim() != 3 or y.shape[2] != 5 or not y.is_floating_point():
            raise LabelError(
                f"labels of shape {list(y.shape[1:])} and type {_plain(y)}, and boxes are [slots, 5] of"
                " floats: corners x1, y1, x2, y2 in pixels, and a class"
            )
        boxes, classes = y[..., :4], y[..., 4]
        meant = f"classes are whole numbers from 0 to {self.num_classes - 1}, {EMPTY} for an empty slot"
        known = (classes == classes.floor()) & (classes >= 0) & (classes < self.num_classes)
        for special in (EMPTY, KNOWN, UNLABELLED):
            known |= classes == special
        advice = ": count them from 0" if bool((classes == self.num_classes).any()) else ""
        _refuse(
            ~y.isfinite().all(-1), y, f"a box that is not finite; leave it out, its slot of class {EMPTY}"
        )
        _refuse(~known, y, f"a box of a class that is none; {meant}{advice}")
        real = classes != EMPTY
        ends = (boxes[..., 2:] < boxes[..., :2]).any(-1) & real
        _refuse(ends, y, "a box that ends before it begins; give x1, y1, x2, y2, and no width and height")
        objects = boxes[classes >= 0]
        if len(objects) and bool((objects.abs() <= 1).all()) and bool((objects != 0).any()):
            raise LabelError("boxes that all end within one pixel; give pixels, and no shares of the frame")
        return y


def _refuse(wrong: Tensor, y: Tensor, why: str) -> None:
    """Raise where there is a wrong box, and show the first."""
    if bool(wrong.any()):
        sample, slot = wrong.nonzero()[0].tolist()
        box = ", ".join(f"{value:g}" for value in y[sample, slot].tolist())
        raise LabelError(f"[{box}], {why}", sample)


def _plain(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
