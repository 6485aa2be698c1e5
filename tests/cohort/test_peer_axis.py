"""Tensors of peers along the peer axis, and who may stand side by side on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.peer_axis import widest
from mmkd.students import Student
from mmkd.types import Batches, ConfigError
from tests.tiny import CLASSES, FEATURES, Eye, fleets


def eyes(*dims: int) -> dict[str, Fleet]:
    """A fleet of two for each width."""

    def recipe(dim: int) -> Callable[[int], Student]:
        return lambda n: Eye(n, dim=dim)

    return {f"eyes{i}": Fleet(recipe(dim), 2) for i, dim in enumerate(dims)}


def shapes(cohort: Cohort) -> dict[str, Any]:
    """Of what may leave each peer."""
    return {name: cohort.axis.locate(name)[0].shapes for name in cohort.names}


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_a_gradient_elsewhere_is_the_gradient_of_a_student_that_stands_there(vectorize: Any) -> None:
    """Same batch, same dropout, statistics left alone: MIME's g(x; z) would else be another function."""
    cohort = Cohort(fleets(drop=0.5), CLASSES, vectorize=vectorize)
    names = ["cameras/0", "cameras/1", "cameras/2"]
    ids = torch.arange(18).view(3, 6)
    batches = [Batches(names, torch.randn(3, 6, FEATURES), torch.randint(CLASSES, (3, 6)), ids, [0, 1, 2])]
    here = cohort.axis.weights(names[:1], buffers=False)
    before = cohort.axis.weights(names, buffers=True)
    elsewhere = cohort.axis.gradients_at(names, batches, here)
    again = cohort.axis.gradients_at(names, batches, here)
    assert all(torch.equal(before[n], t) for n, t in cohort.axis.weights(names, buffers=True).items())
    group, _ = cohort.axis.locate(names[0])
    group.differentiate(batches[0], None, torch.Tensor.backward)
    live = cohort.axis.gradients(names)
    assert live.keys() == elsewhere.keys()
    for n, gradient in live.items():
        torch.testing.assert_close(elsewhere[n], gradient, rtol=1e-5, atol=1e-7)
        assert torch.equal(elsewhere[n], again[n])
    # Wherever the peers stand themselves.
    cohort.axis.load_weights(names, {n: torch.randn(3, *t.shape[1:]) for n, t in here.items()})
    far = cohort.axis.gradients_at(names, batches, here)
    assert all(torch.equal(far[n], g) for n, g in elsewhere.items())


class Flat(Eye):
    """An eye whose head is of another dimension than its kind's."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=8, **kwargs)
        self.net[0].bias = nn.Parameter(torch.zeros(1, 8))


@pytest.mark.parametrize(
    ("other", "what"), [(lambda n: Eye(n, dim=8, heads=1), "aux.0.bias"), (Flat, "net.0.bias")]
)
def test_students_of_other_kinds_are_refused_by_name(other: Any, what: str) -> None:
    cohort = Cohort({**eyes(16), "odd": Fleet(other, 1)}, CLASSES)
    said = f"the students of 'eyes0/0' and 'odd/0' are no slices of one another, for they differ in '{what}'"
    with pytest.raises(ConfigError, match=said):
        widest(shapes(cohort))


def test_the_widest_hold_the_slices_of_all_others() -> None:
    cohort = Cohort(eyes(16, 8, 16), CLASSES)
    assert widest(shapes(cohort)) == ["eyes0/0", "eyes0/1", "eyes2/0", "eyes2/1"]


def test_students_of_different_widths_have_no_average() -> None:
    cohort = Cohort(eyes(16, 8), CLASSES)
    cohort.axis.alike(["eyes0/0", "eyes0/1"])
    with pytest.raises(ConfigError, match="differ in shape and cannot be averaged"):
        cohort.axis.alike(cohort.names)
