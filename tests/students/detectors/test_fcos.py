"""FCOS: torchvision's loss and detections, boxes that count less, and places a stride apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from mmkd.functional.detection.boxes import EMPTY, KNOWN, iou
from mmkd.functional.random import keyed
from mmkd.students.detection import as_floats
from mmkd.students.detectors.anchors import Anchors
from mmkd.students.detectors.base import BoxTargets
from mmkd.students.detectors.fcos import CANDIDATES, Fcos, Outputs
from tests.frames import HEIGHT, WIDTH, scene

SMALL: dict[str, Any] = {"backbone": "test_resnet", "channels": 16, "convs": 1, "strides": (4, 8, 16)}
CLASSES, FRAMES, SLOTS = 2, 3, 4


def make(**more: Any) -> Fcos:
    with keyed(0):
        return Fcos(CLASSES, **(SMALL | more))


def noise(count: int = FRAMES) -> Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def targets() -> BoxTargets:
    """Boxes that overlap; one that is cut by the border, and one that begins at it; a frame without any."""
    boxes, labels = torch.zeros(FRAMES, SLOTS, 4), torch.full((FRAMES, SLOTS), EMPTY)
    boxes[0, :2] = torch.tensor([[8.0, 6, 28, 24], [16, 10, 40, 22]])
    boxes[2, 1], boxes[2, 3] = torch.tensor([50.0, 31, 70, 54]), torch.tensor([0.0, 3, 13, 15])
    labels[0, :2], labels[2, 1], labels[2, 3] = torch.tensor([0, 1]), 1, 0
    return BoxTargets(boxes, labels, torch.ones(FRAMES, SLOTS))


def drawn(detector: Fcos, seed: int = 0) -> Outputs:
    """Random outputs of the head, in ``FRAMES`` frames."""
    with torch.no_grad():
        outputs = detector.outputs(noise())
    g = torch.Generator().manual_seed(seed)
    head = {k: torch.randn(v.shape, generator=g) for k, v in outputs.head.items()}
    head["bbox_regression"] = head["bbox_regression"].abs()  # distances to the sides
    return outputs._replace(head={k: v.requires_grad_() for k, v in head.items()})


# --- places ------------------------------------------------------------------------------------------


def test_where_strides_divide_frames_anchors_are_torchvisions() -> None:
    frames, maps = ImageList(noise(2), [(48, 64)] * 2), [torch.zeros(2, 1, 6, 8), torch.zeros(2, 1, 3, 4)]
    ours = Anchors((8, 16))(frames, maps)
    theirs = AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)(frames, maps)
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_places_are_a_stride_apart_in_any_frame() -> None:
    """150 pixels are 18.75 strides of 8: 19 places, the last of which is at pixel 144, not 18 * 7."""
    strides = (8, 16)
    with torch.no_grad():
        outputs = make(strides=strides).outputs(torch.rand(1, 3, 150, 200))
    centres = ((outputs.anchors[:, :2] + outputs.anchors[:, 2:]) / 2).round().int().tolist()
    rows, columns = {8: 19, 16: 10}, {8: 25, 16: 13}  # 150 and 200 by the strides, rounded up
    expected = {(x * s, y * s) for s in strides for y in range(rows[s]) for x in range(columns[s])}
    assert {(x, y) for x, y in centres} == expected


# --- the loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_at_weight_one_it_is_torchvisions_loss_and_so_are_its_gradients(seed: int) -> None:
    detector, wanted = make(), targets()
    outputs = drawn(detector, seed)
    theirs = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0]}
        for boxes, labels in zip(wanted.boxes, wanted.labels, strict=True)
    ]
    parts = detector.model.compute_loss(theirs, outputs.head, [outputs.anchors] * FRAMES, outputs.levels)
    ours, other = detector.loss(outputs, wanted), torch.stack(list(parts.values())).sum()
    torch.testing.assert_close(ours, other, rtol=1e-5, atol=0)
    head = list(outputs.head.values())
    for grad, expected in zip(torch.autograd.grad(ours, head), torch.autograd.grad(other, head), strict=True):
        assert expected.any()
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)


def test_a_box_counts_in_proportion_to_its_weight() -> None:
    """As long as weights add up to less than one, by which nothing is divided."""
    detector, wanted = make().double(), targets()
    outputs = detector.outputs(noise().double())
    boxes, losses = wanted.boxes.double(), []
    for scale in (1e-4, 2e-4, 4e-4):
        weight = (wanted.weight * scale).double()
        losses.append(detector.loss(outputs, BoxTargets(boxes, wanted.labels, weight)))
    first, second = losses[1] - losses[0], losses[2] - losses[1]
    assert first != 0
    torch.testing.assert_close(second, 2 * first, rtol=1e-6, atol=0)


def test_the_places_of_a_box_of_weight_zero_have_no_gradient() -> None:
    detector, wanted = make(), targets()
    assigned, classes = [], []
    for weight in (1.0, 0.0):
        outputs = drawn(detector)
        wanted.weight[2, 3] = weight
        detector.loss(outputs, wanted).backward()
        assigned.append(outputs.head["bbox_regression"].grad.any(-1))
        classes.append(outputs.head["cls_logits"].grad.any(-1))
    its_own = assigned[0] & ~assigned[1]
    assert its_own[2].any()
    assert not its_own[:2].any()
    assert classes[0][its_own].all()
    assert not classes[1][its_own].any()


def test_outside_of_annotated_areas_nothing_is_wrong() -> None:
    detector, wanted = make(), targets()
    wanted.boxes[0, 2], wanted.labels[0, 2] = torch.tensor([4.0, 2, 44, 30]), KNOWN
    outputs = drawn(detector)
    detector.loss(outputs, wanted).backward()
    centre = (outputs.anchors[:, :2] + outputs.anchors[:, 2:]) / 2
    inside = ((centre >= torch.tensor([4, 2])) & (centre <= torch.tensor([44, 30]))).all(1)
    learns, assigned = (outputs.head[k].grad[0].any(-1) for k in ("cls_logits", "bbox_regression"))
    assert not learns[~inside & ~assigned].any()
    assert learns[inside & ~assigned].any()


def test_a_frame_of_which_nothing_is_known_gives_no_gradient() -> None:
    """Though a box of weight 0 is in it."""
    detector = make()
    boxes = torch.tensor([[[-2.0, -2, -2, -2], [8, 6, 28, 24]]]).repeat(2, 1, 1)
    unknown = BoxTargets(boxes, torch.tensor([[KNOWN, 0]] * 2), torch.tensor([[1.0, 0]] * 2))
    outputs, parameters = detector.outputs(noise(2)), list(detector.parameters())
    loss = detector.loss(outputs, unknown)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    assert not any(g is not None and g.any() for g in grads)
    loss = detector.loss(outputs, unknown._replace(weight=torch.tensor([[1.0, 0.1]] * 2)))
    assert any(g is not None and g.any() for g in torch.autograd.grad(loss, parameters, allow_unused=True))


def test_a_box_without_area_is_none() -> None:
    """What a detector finds outside of the frame is such a box once it is cut at the border."""
    detector, wanted = make(), targets()
    outputs = drawn(detector)
    without = detector.loss(outputs, wanted)
    wanted.boxes[1, 0], wanted.boxes[1, 2] = torch.tensor([64.0, 5, 64, 20]), torch.tensor([9.0, 9, 9, 9])
    wanted.labels[1, 0], wanted.labels[1, 2] = 0, 1
    assert torch.equal(detector.loss(outputs, wanted), without)


# --- learning ----------------------------------------------------------------------------------------


def test_it_learns_one_frame_and_detects_its_boxes() -> None:
    """A bright rectangle and a grey one, which are two classes."""
    frames, rows = scene(3, 8)
    number = int(((rows[..., 4] >= 0).sum(1) == 2).nonzero()[0])
    x, y = as_floats(frames)[number].clone(), rows[number, :2]
    left, top, right, bottom = y[1, :4].int().tolist()
    x[:, top:bottom, left:right] = 0.5
    # Twice the frame, for normalisation over a map of one place. It is asked as it learns, in training
    # mode: running means of so few steps are far behind.
    x, boxes, labels = x.repeat(2, 1, 1, 1), y[:, :4].repeat(2, 1, 1), torch.tensor([[0, 1]] * 2)
    detector = make()
    optimizer = torch.optim.Adam(detector.parameters(), lr=3e-3)
    for _ in range(30):
        loss = detector.loss(detector.outputs(x), BoxTargets(boxes, labels, torch.ones(2, 2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = detector.detections(detector.outputs(x))
    for kind in (0, 1):
        surest = found.scores[0].masked_fill(found.labels[0] != kind, 0.0).argmax()
        assert found.labels[0, surest] == kind
        assert iou(found.boxes[0, surest, None], boxes[0, kind, None]).item() > 0.5


def test_scores_go_down_where_there_is_no_box() -> None:
    detector, x = make(), noise(2)
    empty = BoxTargets(torch.zeros(2, SLOTS, 4), torch.full((2, SLOTS), EMPTY), torch.ones(2, SLOTS))
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
    means = []
    for _ in range(4):
        outputs = detector.outputs(x)
        means.append(detector.maps(outputs).logits.sigmoid().mean().item())
        loss = detector.loss(outputs, empty)
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sorted(means, reverse=True) == means
    assert means[-1] < means[0]


# --- detections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("detections", [7, 1200])
def test_detections_lie_in_slots(detections: int) -> None:
    detector = make(detections=detections, least=0.3)
    found = detector.detections(drawn(detector))
    assert found.boxes.shape == (FRAMES, detections, 4)
    assert found.scores.shape == found.labels.shape == (FRAMES, detections)
    assert (found.scores.diff(dim=1) <= 0).all()
    there = found.scores > 0
    assert there.any(1).all()
    assert found.scores[there].min() >= 0.3
    assert set(found.labels[there].tolist()) <= set(range(CLASSES))
    assert (found.labels[~there] == EMPTY).all()
    assert not found.boxes[~there].any()
    assert found.boxes.min() >= 0
    assert (found.boxes <= torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).all()
    assert there.all() if detections == 7 else not there.all(1).any()


def test_detections_are_torchvisions() -> None:
    """With as many places as there are: neither leaves any out before the suppression."""
    detector = make(detections=20, strides=(16, 32))
    outputs, model = drawn(detector), detector.model
    model.nms_thresh, model.score_thresh, model.detections_per_img = detector.nms, detector.least, 20
    model.topk_candidates = CANDIDATES
    head = {k: list(v.split(outputs.levels, 1)) for k, v in outputs.head.items()}
    anchors = [list(outputs.anchors.split(outputs.levels))] * FRAMES
    expected = model.postprocess_detections(head, anchors, [(HEIGHT, WIDTH)] * FRAMES)
    boxes, scores, labels = detector.detections(outputs)
    for i, frame in enumerate(expected):
        count = len(frame["scores"])
        assert (scores[i] > 0).sum() == count > 5
        torch.testing.assert_close(scores[i, :count], frame["scores"])
        assert torch.equal(labels[i, :count], frame["labels"])
        torch.testing.assert_close(boxes[i, :count], frame["boxes"], rtol=1e-5, atol=1e-4)


def test_peers_detect_together_what_each_detects_alone() -> None:
    detector = make()
    each = [drawn(detector, seed) for seed in range(3)]
    heads = {k: torch.stack([o.head[k].detach() for o in each]) for k in each[0].head}
    together = vmap(lambda head: detector.detections(each[0]._replace(head=head)))(heads)
    for i, outputs in enumerate(each):
        for many, one in zip(together, detector.detections(outputs), strict=True):
            torch.testing.assert_close(many[i], one)
