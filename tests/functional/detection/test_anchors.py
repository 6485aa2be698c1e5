"""Which place learns which box: the paper read literally, torchvision's losses, and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torchvision.ops import sigmoid_focal_loss

from mmkd.functional.detection.anchors import (
    Assigned,
    by_centre,
    focal,
    gather,
    map_distance,
    shares,
)
from mmkd.functional.detection.boxes import EMPTY, KNOWN

STRIDES, HEIGHT, WIDTH = (2, 4, 8), 48, 64
RADIUS = 1.5


def draw(*shape: int, seed: int, least: float = 4.0, most: float = 34.0) -> Tensor:
    """Random boxes of a frame."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=g) * torch.tensor([WIDTH - 10, HEIGHT - 10])
    return torch.cat([corner, corner + least + torch.rand(*shape, 2, generator=g) * (most - least)], -1)


def world(seed: int, slots: int = 6) -> tuple[Tensor, Tensor]:
    """Boxes and labels of four samples; slots without an object lie between the others, and one has none."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-2, 3, (4, slots), generator=g)
    labels[0], labels[1, -1] = EMPTY, 1
    boxes = draw(4, slots, seed=seed + 100)
    boxes[1, 0], labels[1, 0] = boxes[1, -1], 2  # two claim the same places
    return boxes, labels


def grid() -> tuple[Tensor, Tensor, Tensor]:
    """A square as wide as the stride around every place, and the range of sides of its level (FCOS)."""
    squares, least, most = [], [], []
    for number, s in enumerate(STRIDES):
        for y in range(s // 2, HEIGHT, s):
            for x in range(s // 2, WIDTH, s):
                squares.append([x - s / 2, y - s / 2, x + s / 2, y + s / 2])
                least.append(4.0 * s if number else 0.0)
                most.append(8.0 * s if number < len(STRIDES) - 1 else math.inf)
    return torch.tensor(squares), torch.tensor(least), torch.tensor(most)


# --- matching ----------------------------------------------------------------------------------------


def literally(
    place: list[float], stride: float, least: float, most: float, boxes: dict[int, list[float]]
) -> int | None:
    """The slot of a place as section 2.1 says it, with centre sampling."""
    x, y = place
    near: list[tuple[float, int]] = []
    for slot, (left, top, right, bottom) in boxes.items():
        cx, cy, r = (left + right) / 2, (top + bottom) / 2, RADIUS * stride
        centre = max(cx - r, left) < x < min(cx + r, right) and max(cy - r, top) < y < min(cy + r, bottom)
        if centre and least < max(x - left, y - top, right - x, bottom - y) < most:
            near.append(((right - left) * (bottom - top), slot))
    return min(near)[1] if near else None


def test_a_doubtful_box_takes_no_place_from_another() -> None:
    places = torch.tensor([[3.0, 3, 5, 5], [9, 9, 11, 11]])  # around 4, 4 and 10, 10, of stride 2
    both = torch.tensor([[[1.0, 1, 7, 7], [2.0, 2, 6, 6], [8.5, 8.5, 11.5, 11.5]]])  # centres 4, 4 and 10, 10
    least, most = torch.zeros(2), torch.full((2,), torch.inf)
    for weight, slot, counts in (
        ((0.3, 0.9, 0.0), 1, 0.9),
        ((0.9, 0.0, 0.0), 0, 0.9),
        ((0.0, 0.0, 0.0), 1, 0.0),
    ):
        labels, weights = torch.zeros(1, 3, dtype=torch.long), torch.tensor([weight])
        found = by_centre(places, least, most, both, labels, weights, radius=RADIUS)
        assert found.slot.tolist() == [[slot, 2]]  # of boxes that are alike to be found, the smaller
        share = shares(found, places, both, labels, weights)
        torch.testing.assert_close(share.positive, torch.tensor([[counts, 0.0]]))
        assert share.negative.sum() == 0  # near a doubtful box, too, nobody is told to find nothing


@pytest.mark.parametrize("seed", range(3))
def test_matching_by_centre_is_the_papers(seed: int) -> None:
    anchors, least, most = grid()
    boxes, labels = draw(3, 8, seed=seed, least=3.0, most=60.0), world(seed, 8)[1][1:]
    ours = by_centre(anchors, least, most, boxes, labels, torch.ones(labels.shape), radius=RADIUS)
    places = ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist()
    stride = (anchors[:, 2] - anchors[:, 0]).tolist()
    levels, several = set(), 0
    for sample in range(3):
        real = {i: box.tolist() for i, box in enumerate(boxes[sample]) if labels[sample, i] >= 0}
        for i, numbers in enumerate(zip(places, stride, least.tolist(), most.tolist(), strict=True)):
            slot = literally(*numbers, real)
            assert ours.positive[sample, i].item() == (slot is not None)
            if slot is not None:
                assert ours.slot[sample, i] == slot
                levels.add(stride[i])
                rest = {k: box for k, box in real.items() if k != slot}
                several += literally(*numbers, rest) is not None
    assert levels == set(STRIDES), "every level finds something"
    assert several > 0, "and some place lies near two centres"


# --- weights -----------------------------------------------------------------------------------------


def test_shares_by_hand() -> None:
    anchors = torch.tensor([[10.0 * i, 0, 10 * i + 10, 10] for i in range(5)])  # centres 5, 15, 25, 35, 45
    row = [[0.0, 0, 10, 10], [10, 0, 20, 10], [12, 0, 35, 10], [0, 0, 8, 4]]
    labels = torch.tensor([[0, 1, KNOWN, EMPTY], [0, 1, KNOWN, KNOWN], [0, 1, EMPTY, EMPTY]])
    assigned = Assigned(
        torch.tensor([[0, 1, 0, 0, 0]]).expand(3, -1),
        torch.tensor([[True, True, False, False, False]]).expand(3, -1),
    )
    weight = torch.tensor([[0.3, 0.0, 1.0, 1.0]]).expand(3, -1)
    share = shares(assigned, anchors, torch.tensor([row]).expand(3, -1, -1), labels, weight)
    # Found outside of an area, too; the box of weight 0 is neither found nor background.
    assert share.positive.tolist() == [pytest.approx([0.3, 0, 0, 0, 0])] * 3
    # An area ends at 35, the centre of the fourth place; the last sample has none, so all of it is annotated.
    assert share.negative.tolist() == [[0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]


def test_boxes_of_slots() -> None:
    boxes, slot = draw(2, 3, seed=0), torch.tensor([[2, 0, 2, 1], [1, 1, 0, 2]])
    expected = torch.stack([boxes[i][slot[i]] for i in range(2)])
    assert torch.equal(gather(boxes, slot), expected)


# --- losses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.5)])
def test_focal_loss_is_torchvisions(alpha: float, gamma: float) -> None:
    g = torch.Generator().manual_seed(0)
    logits, target = 3 * torch.randn(4, 50, generator=g), torch.rand(4, 50, generator=g).round()
    theirs = sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(focal(logits, target, alpha=alpha, gamma=gamma), theirs)


def maps(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits, told = torch.randn(2, 2, 5, 3, generator=g).unbind(0)
    return logits.requires_grad_(), draw(2, 5, seed=seed).requires_grad_(), told, draw(2, 5, seed=seed + 1)


@pytest.mark.parametrize(("weight", "over"), [(1.0, 1.0), (2.5, 2.0)])
def test_distance_of_one_place_by_hand(weight: float, over: float) -> None:
    """Said 1/2, told 0.8: cross entropy ln 2, squared gap 0.09. Boxes: GIoU 2/6, for the hull is the union."""
    told = torch.tensor(0.8).logit().view(1, 1, 1)
    boxes, told_boxes = torch.tensor([[[0.0, 0, 2, 2]]]), torch.tensor([[[1.0, 0, 3, 2]]])
    found = map_distance(torch.zeros(1, 1, 1), boxes, told, told_boxes, torch.tensor([weight]))
    # Over the told probabilities' sum, 0.8 or 2, but never over less than 1.
    assert found.item() == pytest.approx(weight * (0.09 * math.log(2) + 0.8 * 2 / 3) / over)


def test_distance_does_not_push_what_agrees() -> None:
    logits, boxes, _, told_boxes = maps(0)
    loss = map_distance(logits, boxes, logits.detach(), told_boxes, torch.ones(2))
    pushed, drawn = torch.autograd.grad(loss, (logits, boxes))
    assert not pushed.any()
    assert drawn.any(-1).all(), "the boxes do not agree"


def test_distance_does_not_draw_to_a_box_without_area() -> None:
    """A detector whose sides are cut at 0, as those of FCOS, says such boxes before it has learnt."""
    line = torch.tensor([[[4.0, 4, 8, 4]]], requires_grad=True)
    told = torch.full((1, 1, 1), 2.0)
    loss = map_distance(told, line, told, line.detach(), torch.ones(1))
    assert loss == 0
    assert not torch.autograd.grad(loss, line)[0].any()


def test_distance_of_a_silent_sample_has_no_gradient() -> None:
    logits, boxes, told, told_boxes = maps(0)
    loss = map_distance(logits, boxes, told, told_boxes, torch.tensor([0.5, 0.0]))
    for grad in torch.autograd.grad(loss, (logits, boxes)):
        assert grad[0].any(-1).all()
        assert not grad[1].any()


# --- many peers --------------------------------------------------------------------------------------


def test_all_of_it_goes_through_vmap() -> None:
    anchors, least, most = grid()
    boxes, labels = (torch.stack(t) for t in zip(*(world(seed) for seed in range(3)), strict=True))
    weight = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
    said = [t.detach() for t in (torch.stack(t) for t in zip(*map(maps, range(3)), strict=True))]

    def centre(b: Tensor, k: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        found = by_centre(anchors, least, most, b, k, w, radius=RADIUS)
        return (*shares(found, anchors, b, k, w), *found, gather(b, found.slot))

    def losses(logits: Tensor, b: Tensor, told: Tensor, told_b: Tensor) -> tuple[Tensor, ...]:
        target = (told > 0).to(told.dtype)
        return focal(logits, target), map_distance(logits, b, told, told_b, torch.tensor([0.3, 1.0]))

    for function, rows in (
        (centre, (boxes, labels, weight)),
        (losses, said),
    ):
        alone = [function(*row) for row in zip(*rows, strict=True)]
        for many, *ones in zip(vmap(function)(*rows), *alone, strict=True):
            torch.testing.assert_close(many, torch.stack(ones))
