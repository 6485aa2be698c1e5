"""Set prediction: transformers' own losses at weight 1, closed forms, and objects that count less."""

from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss
from transformers.loss.loss_rt_detr import RTDetrLoss

from mmkd.functional.detection.boxes import EMPTY, KNOWN, centred
from mmkd.functional.detection.set_prediction import (
    box_cost,
    box_loss,
    match,
    sigmoid_set_loss,
    softmax_set_loss,
    varifocal,
)
from mmkd.functional.random import generator

CLASSES, QUERIES, SLOTS = 3, 6, 4
LOSSES = [
    pytest.param(sigmoid_set_loss, CLASSES, id="sigmoid"),
    pytest.param(softmax_set_loss, CLASSES + 1, id="softmax"),
]


def draw(*shape: int, seed: str) -> Tensor:
    return torch.rand(shape, generator=generator(0, seed), dtype=torch.float64)


def corners(*shape: int, seed: str) -> Tensor:
    """Boxes inside of the frame, as corners."""
    start = 0.6 * draw(*shape, 2, seed=seed)
    return torch.cat([start, start + 0.1 + 0.3 * draw(*shape, 2, seed=f"{seed} size")], -1)


def said(outcomes: int) -> tuple[Tensor, Tensor]:
    logits = 4 * draw(3, QUERIES, outcomes, seed="logits") - 2
    return logits.requires_grad_(), centred(corners(3, QUERIES, seed="boxes")).requires_grad_()


def objects() -> tuple[Tensor, Tensor, Tensor]:
    """Four objects, two with empty slots around them, and none."""
    labels = torch.tensor([[0, 2, 1, 2], [EMPTY, 1, EMPTY, 0], [EMPTY] * 4])
    return corners(3, SLOTS, seed="objects"), labels, torch.ones(3, SLOTS, dtype=torch.float64)


def theirs(loss, logits: Tensor, boxes: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
    targets = [
        {"class_labels": line[line >= 0], "boxes": centred(box[line >= 0])}
        for box, line in zip(wanted, labels, strict=True)
    ]
    outputs = {"logits": logits, "pred_boxes": boxes}
    if loss is sigmoid_set_loss:
        # The papers' coefficients, which are the defaults of RTDetrConfig and DFineConfig.
        config = SimpleNamespace(
            matcher_class_cost=2, matcher_bbox_cost=5, matcher_giou_cost=2, use_focal_loss=True, matcher_alpha=0.25,
            matcher_gamma=2, num_labels=CLASSES, weight_loss_vfl=1, weight_loss_bbox=5, weight_loss_giou=2,
            eos_coefficient=1e-4, focal_loss_alpha=0.75, focal_loss_gamma=2,
        )  # fmt: skip
        return torch.stack(list(RTDetrLoss(config)(outputs, targets).values())).sum()
    criterion = ImageLoss(HungarianMatcher(1, 5, 2), CLASSES, 0.1, ["labels", "boxes"]).double()
    parts = criterion(outputs, targets)
    return parts["loss_ce"] + 5 * parts["loss_bbox"] + 2 * parts["loss_giou"]


@pytest.mark.parametrize(("loss", "outcomes"), LOSSES)
def test_at_weight_one_it_is_the_loss_of_transformers_and_so_are_its_gradients(loss, outcomes: int) -> None:
    logits, boxes = said(outcomes)
    wanted, labels, weight = objects()
    ours = loss(logits, boxes, wanted, labels, weight, linear_sum_assignment)
    other = theirs(loss, logits, boxes, wanted, labels)
    torch.testing.assert_close(ours, other)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (logits, boxes)), torch.autograd.grad(other, (logits, boxes))
    )


@pytest.mark.parametrize(("loss", "outcomes"), LOSSES)
def test_the_order_of_slots_and_their_empty_ones_do_not_matter(loss, outcomes: int) -> None:
    logits, boxes = said(outcomes)
    wanted, labels, weight = objects()
    weight = draw(3, SLOTS, seed="weight")
    order = torch.tensor([2, 0, 3, 1])
    more = torch.cat([wanted[:, order], torch.zeros_like(wanted)], 1)
    shuffled = loss(
        logits,
        boxes,
        more,
        torch.cat([labels[:, order], torch.full_like(labels, EMPTY)], 1),
        torch.cat([weight[:, order], weight], 1),
        linear_sum_assignment,
    )
    torch.testing.assert_close(shuffled, loss(logits, boxes, wanted, labels, weight, linear_sum_assignment))


def test_an_object_counts_as_much_as_its_weight() -> None:
    logits, boxes = (t.detach() for t in said(CLASSES))
    wanted, labels, weight = objects()

    def total(w: float) -> Tensor:
        weight[0, 1] = w
        loss = sigmoid_set_loss(logits, boxes, wanted, labels, weight, linear_sum_assignment)
        return loss * (weight * (labels >= 0)).sum()

    # Weights do not move the matching, so the sum is linear in each of them.
    torch.testing.assert_close(total(0.25), 0.25 * total(1.0) + 0.75 * total(0.0))
    assert total(1.0) > total(0.0)


@pytest.mark.parametrize(("loss", "outcomes"), LOSSES)
def test_nothing_is_learnt_from_an_object_of_weight_zero_nor_where_it_was_found(loss, outcomes: int) -> None:
    logits, boxes = (t.detach() for t in said(outcomes))
    wanted, labels, weight = objects()
    # The first query found the object; nobody else comes near.
    boxes[0, 0] = centred(wanted[0, 1])
    logits[0, 0, labels[0, 1]] = 9.0
    weight[0, 1] = 0.0
    logits.requires_grad_()
    boxes.requires_grad_()
    loss(logits, boxes, wanted, labels, weight, linear_sum_assignment).backward()
    assert not logits.grad[0, 0].any()
    assert not boxes.grad[0, 0].any()
    assert logits.grad[0, 1:].any(-1).all()
    weight[0, 1] = 1.0
    loss(logits, boxes, wanted, labels, weight, linear_sum_assignment).backward()
    assert logits.grad[0, 0].any()


@pytest.mark.parametrize(("loss", "outcomes"), LOSSES)
def test_outside_of_annotated_areas_nothing_is_wrong(loss, outcomes: int) -> None:
    logits, boxes = (t.detach() for t in said(outcomes))
    wanted, labels, weight = objects()
    labels[:2] = EMPTY
    labels[0, 0], wanted[0, 0] = KNOWN, torch.tensor([0.5, 0.0, 1.0, 1.0])
    labels[0, 2], wanted[0, 2] = KNOWN, torch.tensor([0.0, 0.0, 0.2, 0.2])
    places = [[0.6, 0.5], [0.4, 0.5], [0.1, 0.1], [0.1, 0.3], [0.3, 0.1], [0.9, 0.9]]
    boxes[..., :2] = torch.tensor(places, dtype=torch.float64)
    logits.requires_grad_()
    loss(logits, boxes, wanted, labels, weight, linear_sum_assignment).backward()
    told = logits.grad.any(-1)
    assert told[0].tolist() == [True, False, True, False, False, True]
    assert told[1:].all(), "without areas all of the frame is annotated"


@pytest.mark.parametrize(("loss", "outcomes"), LOSSES)
def test_nothing_is_learnt_where_all_of_a_batch_lies_outside_of_annotated_areas(loss, outcomes: int) -> None:
    logits, boxes = said(outcomes)
    wanted, labels, weight = objects()
    corner = torch.tensor([0.0, 0.0, 1e-6, 1e-6], dtype=torch.float64).expand_as(wanted)
    value = loss(logits, boxes, corner, torch.full_like(labels, KNOWN), weight, linear_sum_assignment)
    assert value == 0


def test_a_lone_query_that_is_to_find_nothing_costs_its_whole_cross_entropy() -> None:
    logits, boxes = said(CLASSES + 1)
    wanted, labels, weight = objects()
    spot = boxes.detach()[0, 2, :2]
    around = torch.cat([spot - 1e-6, spot + 1e-6]).expand_as(wanted)
    known = torch.full_like(labels, KNOWN)
    ours = softmax_set_loss(logits, boxes, around, known, weight, linear_sum_assignment)
    torch.testing.assert_close(ours, -logits[0, 2].log_softmax(-1)[-1])


def test_frames_without_objects_cost_what_they_say_of_each_class() -> None:
    wanted, labels, weight = objects()
    labels = torch.full_like(labels, EMPTY)
    logits, boxes = said(CLASSES)
    ours = sigmoid_set_loss(logits, boxes, wanted, labels, weight, linear_sum_assignment)
    p = logits.sigmoid()
    torch.testing.assert_close(ours, -(0.75 * p**2 * (1 - p).log()).sum())
    logits, boxes = said(CLASSES + 1)
    ours = softmax_set_loss(logits, boxes, wanted, labels, weight, linear_sum_assignment)
    torch.testing.assert_close(ours, -logits.softmax(-1)[..., -1].log().mean())
    assert not torch.autograd.grad(ours, boxes)[0].any()


def test_a_varifocal_gradient_is_the_error_of_the_probability_times_its_weight() -> None:
    logits = said(CLASSES)[0]
    labels = torch.tensor([[0, EMPTY, 2, 1, EMPTY, 0]]).expand(3, -1)
    quality = draw(3, QUERIES, seed="quality")
    (grad,) = torch.autograd.grad(varifocal(logits, labels, quality).sum(), logits)
    p = logits.detach().sigmoid()
    expected = 0.75 * p**3  # weight 0.75 p^2, error p
    for sample, query in torch.cartesian_prod(torch.arange(3), torch.tensor([0, 2, 3, 5])):
        q, c = quality[sample, query], labels[sample, query]
        expected[sample, query, c] = q * (p[sample, query, c] - q)
    torch.testing.assert_close(grad, expected)


def test_gradients_are_those_of_finite_differences() -> None:
    wanted, labels, _ = objects()
    weight = draw(3, SLOTS, seed="weight")
    labels[1, 0] = KNOWN
    logits, boxes = said(CLASSES + 1)
    assert torch.autograd.gradcheck(
        lambda x, y: softmax_set_loss(x, y, wanted, labels, weight, linear_sum_assignment), (logits, boxes)
    )
    assert torch.autograd.gradcheck(
        lambda x: varifocal(x, labels, weight, gamma=0.0),
        said(CLASSES)[0][:, :SLOTS].detach().requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda y: box_loss(y, corners(3, QUERIES, seed="w")), boxes)


def test_an_object_cut_by_the_border_is_found_as_well_as_any() -> None:
    cut = torch.tensor([[[-0.2, 0.1, 0.1, 0.4], [0.9, 0.8, 1.5, 1.1]]])
    torch.testing.assert_close(box_loss(centred(cut), cut), torch.zeros(1, 2), atol=1e-5, rtol=0)
    # Half of a box apart in x: 5 (0.15) + 2 (1 - 1/3), as hull and union are one.
    aside = cut + torch.tensor([0.15, 0.0, 0.15, 0.0])
    torch.testing.assert_close(box_loss(centred(aside), cut)[0, 0], torch.tensor(0.75 + 4 / 3))
    # The cost is the loss but for a constant.
    cost = box_cost(centred(aside), cut)
    torch.testing.assert_close(cost.diagonal(dim1=1, dim2=2), box_loss(centred(aside), cut) - 2)


def test_the_matching_is_the_cheapest_of_all() -> None:
    cost = draw(1, 4, 5, seed="cost")
    labels = torch.tensor([[2, EMPTY, 0, 1, KNOWN]])
    slots = match(cost, labels, linear_sum_assignment)
    real = [0, 2, 3]

    def price(queries: tuple[int, ...]) -> float:
        return sum(cost[0, q, s].item() for q, s in zip(queries, real, strict=True))

    best = min(permutations(range(4), 3), key=price)
    expected = torch.full((1, 4), EMPTY)
    expected[0, list(best)] = torch.tensor(real)
    assert torch.equal(slots, expected)


def test_more_objects_than_queries_and_costs_that_are_no_numbers() -> None:
    cost = torch.tensor([[[3.0, 1.0, 2.0]], [[torch.nan, 1.0, torch.inf]]])
    labels = torch.zeros(2, 3, dtype=torch.long)
    assert match(cost, labels, linear_sum_assignment).tolist() == [[1], [1]]
    assert match(
        torch.full((1, 2, 2), torch.nan), labels[:1, :2], linear_sum_assignment
    ).sort().values.tolist() == [[0, 1]]
