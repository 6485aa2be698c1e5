"""A batch that is cut into parts gives the gradient of the whole, whatever its loss is divided by."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.sequential import SequentialGroup
from mmkd.cohort.groups.stacked import StackedGroup
from mmkd.cohort.parts import parts_of
from mmkd.cohort.peer_axis import PeerAxis
from mmkd.students import DetectionStudent
from mmkd.types import Batch, Batches, Target
from tests.frames import scene
from tests.grids import each_once
from tests.tiny import CLASSES, FEATURES, Eye

NAMES, SIZE, PARTS = ["p/0", "p/1"], 8, 3
IGNORED = -100


class Ignoring(Eye):
    """Some samples have no label, and the loss is the mean over the others."""

    def private_loss(self, batch: Batch) -> Tensor:
        assert batch.y is not None
        total = F.cross_entropy(self(batch.x), batch.y, ignore_index=IGNORED, reduction="sum")
        return total / self.terms(batch).clamp(min=1)

    def terms(self, batch: Batch) -> Tensor:
        return (batch.y != IGNORED).sum().double()


class Detector(DetectionStudent):
    """Of the smallest kind, in evaluation mode: each part would have normalisation statistics of its own."""

    def __init__(self, flip: bool = False) -> None:
        super().__init__(
            1, settings={"backbone": "test_resnet", "channels": 8, "strides": [8, 16]}, flip=flip
        )


def classifier(kind: type[Eye]) -> Any:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(2, SIZE, FEATURES, generator=stream, dtype=torch.float64)
    y = torch.randint(CLASSES, (2, SIZE), generator=stream)
    y[0, [0, 3, 6, 7]], y[1, 1:] = IGNORED, IGNORED  # of the first part of the first peer nothing is left
    p = torch.rand(2, SIZE, CLASSES, generator=stream, dtype=torch.float64).softmax(-1)
    weight = (torch.rand(2, SIZE, generator=stream) < 0.4).double() * 0.7
    return kind(CLASSES, drop=0.0), x, y if kind is Ignoring else y.clamp(min=0), Target(p, weight)


def detector() -> Any:
    frames, boxes = zip(*(scene(seed, SIZE) for seed in (1, 2)), strict=True)
    y = torch.stack(boxes).double()
    rows = torch.cat([y[..., :4], 0.5 + 0.1 * y[..., 4:5], y[..., 4:5]], -1).flatten(-2)
    weight = torch.ones(2, SIZE, dtype=torch.float64)
    weight[0, 2] = 0  # nobody has said anything of this frame
    return Detector(), torch.stack(frames), y, Target(rows, weight)


class Weighing(Eye):
    """Classes count differently, and labels are smoothed."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, class_weights=[0.5, 2.0, 1.0], label_smoothing=0.1, **kwargs)


def unlabelled(kind: type[Eye], *, soft: bool) -> Any:
    """The same samples, some of them without a label, as readers hand them out."""
    student, x, y, target = classifier(kind)
    y, there = classifier(Ignoring)[2], classifier(Ignoring)[2] != IGNORED
    if soft:
        y = target.values.masked_fill(~there[..., None], torch.nan)
    return student, x, y, target, there


CASES = {
    "some unlabelled": lambda: unlabelled(Eye, soft=False),
    "some unlabelled, weighed": lambda: unlabelled(Weighing, soft=False),
    "some unlabelled, soft": lambda: unlabelled(Weighing, soft=True),
    "labels": lambda: classifier(Ignoring),
    "samples": lambda: classifier(Eye),
    "boxes": detector,
}


def group_of(student: Any, kind: Any) -> Group:
    student = student.double().eval()
    group = kind(NAMES, NAMES, [student] if kind is StackedGroup else [student, copy.deepcopy(student)])
    return group.eval()


@each_once(case=list(CASES), kind=[SequentialGroup, StackedGroup], alpha=[None, 0.0, 0.5])
def test_parts_make_the_step_of_the_whole(case: str, kind: Any, alpha: float | None) -> None:
    """Labels alone, targets alone, and both, whose numbers of terms differ."""
    student, x, y, target, *there = CASES[case]()
    group = group_of(student, kind)
    keep = None if not alpha else torch.full((2,), alpha, dtype=torch.float64)
    ids = torch.arange(SIZE).expand(2, SIZE)
    whole = Batches(NAMES, x, None if alpha == 0 else y, ids, [1, 2], None if alpha is None else target, keep)
    if there and alpha != 0:
        whole = whole._replace(labelled=there[0])

    def found(parts: int) -> tuple[Tensor, dict[str, Tensor]]:
        losses = []
        for part, share in parts_of(group, whole, parts):
            scale = share * torch.ones(2, dtype=torch.float64)
            losses.append(scale * group.differentiate(part, scale, Tensor.backward))
        gradients = {n: g.clone() for n, g in group.gradients([0, 1]).items()}
        for p in group.parameters():
            p.grad = None
        return torch.stack(losses).sum(0), gradients

    (loss, gradients), (losses, sums) = found(1), found(PARTS)
    torch.testing.assert_close(losses, loss, rtol=1e-12, atol=1e-12)
    for name, g in gradients.items():
        torch.testing.assert_close(sums[name], g, rtol=1e-9, atol=1e-12)
    # Gradients at other weights, which some aggregations ask for, are cut in the same way.
    at = {n: t[:1].clone() for n, t in group.parameters_of([0, 1]).items()}
    once, cut = (PeerAxis([group]).gradients_at(NAMES, [whole], at, parts) for parts in (1, PARTS))
    for name, g in once.items():
        torch.testing.assert_close(cut[name], g, rtol=1e-9, atol=1e-12)


def test_means_over_samples_are_weighed_as_ever() -> None:
    """By a plain number, with the bits of before; a target of equal weights changes none of them."""
    student, x, y, target = classifier(Eye)
    group = group_of(student, StackedGroup)
    whole = Batches(NAMES, x, y, torch.arange(SIZE).expand(2, SIZE), [1, 2])
    assert [share for _, share in parts_of(group, whole, PARTS)] == [3 / 8, 3 / 8, 2 / 8]
    keep = torch.full((2,), 0.3)
    even = whole._replace(target=target._replace(weight=torch.ones(2, SIZE)), keep=keep)
    for (part, share), size in zip(parts_of(group, even, PARTS), [3, 3, 2], strict=True):
        assert torch.equal(part.keep, keep)
        assert share.tolist() == [size / SIZE] * 2


@pytest.mark.parametrize("kind", [SequentialGroup, StackedGroup])
def test_terms_are_those_of_the_frames_as_the_loss_mirrors_them(kind: Any) -> None:
    """Boxes of a mirrored frame are near other places: the loss times its terms adds up to the same."""
    student = Detector(flip=True)
    student.detector.model.center_sampling_radius = 0.6  # so few places that it matters where a box lies
    group = group_of(student, kind)
    group.train()
    for module in group.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    x, y = (torch.stack(part) for part in zip(*(scene(seed, 4) for seed in (1, 2)), strict=True))
    batches = Batches(NAMES, x, y.double(), torch.arange(4).expand(2, 4), [5, 6])
    seen: list[Tensor] = []
    student_kind = type(group.students()[0].detector)
    before = student_kind._shares

    def watched(self: Any, *args: Any) -> Any:
        found = before(self, *args)
        seen.append(found[1].positive.sum())
        return found

    student_kind._shares = watched  # type: ignore[method-assign]
    try:
        counted = group.terms(lambda student, batch: student.terms(batch), batches)
        if kind is SequentialGroup:
            group.differentiate(batches, None, Tensor.backward)
            assert torch.equal(torch.stack(seen[-2:]), counted)
    finally:
        student_kind._shares = before  # type: ignore[method-assign]
    assert counted.shape == (2,)
