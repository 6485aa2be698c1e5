"""Detectors of torchvision's parts: its losses at weight 1, boxes that count less, and what is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from mmkd.functional.detection.boxes import EMPTY, KNOWN, iou
from mmkd.functional.random import keyed
from mmkd.students.detection import as_floats, build
from mmkd.students.detectors.base import Detector, Goal
from mmkd.students.detectors.dense import CANDIDATES, Dense, Said
from mmkd.students.detectors.places import Anchors
from mmkd.types import ConfigError
from tests.frames import HEIGHT, WIDTH, scene

SMALL: dict[str, dict[str, Any]] = {
    "fcos": {"backbone": "test_resnet", "channels": 16, "convs": 1, "strides": [4, 8, 16]},
    "retinanet": {"backbone": "test_resnet", "channels": 16, "strides": [4, 8, 16]},
    "ssdlite": {"height": HEIGHT, "width": WIDTH, "small": True, "scale": 0.5},
    "faster_rcnn": {"backbone": "test_resnet", "channels": 16, "hidden": 32, "proposals": 30},
}
DENSE = ["fcos", "retinanet", "ssdlite"]
CLASSES, FRAMES, SLOTS = 2, 3, 4


def make(name: str, **more: Any) -> Detector:
    with keyed(0):
        return build(name, CLASSES, SMALL[name] | more)


def noise(count: int = FRAMES) -> Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def goal() -> Goal:
    """Boxes that overlap; one that is cut by the border, and one that begins at it; a frame without any."""
    boxes, labels = torch.zeros(FRAMES, SLOTS, 4), torch.full((FRAMES, SLOTS), EMPTY)
    boxes[0, :2] = torch.tensor([[8.0, 6, 28, 24], [16, 10, 40, 22]])
    boxes[2, 1], boxes[2, 3] = torch.tensor([50.0, 31, 70, 54]), torch.tensor([0.0, 3, 13, 15])
    labels[0, :2], labels[2, 1], labels[2, 3] = torch.tensor([0, 1]), 1, 0
    return Goal(boxes, labels, torch.ones(FRAMES, SLOTS))


def said(detector: Dense, seed: int = 0) -> Said:
    """A head that says anything at all, in ``FRAMES`` frames."""
    with torch.no_grad():
        outputs = detector.outputs(noise())
    g = torch.Generator().manual_seed(seed)
    head = {k: torch.randn(v.shape, generator=g) for k, v in outputs.head.items()}
    if "bbox_ctrness" in head:
        head["bbox_regression"] = head["bbox_regression"].abs()  # distances to the sides
    return outputs._replace(head={k: v.requires_grad_() for k, v in head.items()})


# --- places ------------------------------------------------------------------------------------------


def test_where_strides_divide_frames_anchors_are_torchvisions() -> None:
    sizes, ratios = ((12, 16), (24, 32)), ((0.5, 1.0),) * 2
    frames, maps = ImageList(noise(2), [(48, 64)] * 2), [torch.zeros(2, 1, 6, 8), torch.zeros(2, 1, 3, 4)]
    ours, theirs = Anchors((8, 16), sizes, ratios)(frames, maps), AnchorGenerator(sizes, ratios)(frames, maps)
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster_rcnn"])
def test_places_are_a_stride_apart_in_any_frame(name: str) -> None:
    """150 pixels are 18.75 strides of 8: 19 places, the last of which looks at pixel 144, not 18 * 7."""
    strides = [8, 16]
    detector: Any = make(name, strides=strides)
    with torch.no_grad():
        outputs = detector.outputs(torch.rand(1, 3, 150, 200))
    centres = ((outputs.anchors[:, :2] + outputs.anchors[:, 2:]) / 2).round().int().tolist()
    rows, columns = {8: 19, 16: 10}, {8: 25, 16: 13}  # 150 and 200 by the strides, rounded up
    expected = {(x * s, y * s) for s in strides for y in range(rows[s]) for x in range(columns[s])}
    assert {(x, y) for x, y in centres} == expected


# --- losses ------------------------------------------------------------------------------------------


def theirs(name: str, model: Any, outputs: Said, goal: Goal) -> Tensor:
    """The loss of torchvision's own model on what the head says."""
    anchors, first = [outputs.anchors] * FRAMES, int(name == "ssdlite")  # whose background is class 0
    targets = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + first}
        for boxes, labels in zip(goal.boxes, goal.labels, strict=True)
    ]
    if name == "fcos":
        parts = model.compute_loss(targets, outputs.head, anchors, outputs.levels)
    elif name == "retinanet":
        parts = model.compute_loss(targets, outputs.head, anchors)
    else:
        nobody = torch.full((len(outputs.anchors),), -1)
        matched = [
            model.proposal_matcher(box_iou(t["boxes"], outputs.anchors)) if len(t["boxes"]) else nobody
            for t in targets
        ]
        parts = model.compute_loss(targets, outputs.head, anchors, matched)
    return torch.stack(list(parts.values())).sum()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", DENSE)
def test_at_weight_one_it_is_torchvisions_loss_and_so_are_its_gradients(name: str, seed: int) -> None:
    detector = make(name)
    outputs = said(detector, seed)
    ours, other = detector.loss(outputs, goal()), theirs(name, detector.model, outputs, goal())
    torch.testing.assert_close(ours, other, rtol=1e-5, atol=0)
    head = list(outputs.head.values())
    for grad, expected in zip(torch.autograd.grad(ours, head), torch.autograd.grad(other, head), strict=True):
        assert expected.any()
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_a_box_counts_in_proportion_to_its_weight(name: str) -> None:
    """As long as weights add up to less than one, by which nothing is divided."""
    detector, wanted = make(name).double(), goal()
    outputs = detector.outputs(noise().double())
    boxes, losses = wanted.boxes.double(), []
    for scale in (1e-4, 2e-4, 4e-4):
        weight = (wanted.weight * scale).double()
        losses.append(detector.loss(outputs, Goal(boxes, wanted.labels, weight)))
    first, second = losses[1] - losses[0], losses[2] - losses[1]
    assert first != 0
    torch.testing.assert_close(second, 2 * first, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", DENSE)
def test_places_of_a_box_of_weight_zero_are_told_nothing(name: str) -> None:
    detector, wanted = make(name), goal()
    finds, classes = [], []
    for weight in (1.0, 0.0):
        outputs = said(detector)
        wanted.weight[2, 3] = weight
        detector.loss(outputs, wanted).backward()
        finds.append(outputs.head["bbox_regression"].grad.any(-1))
        classes.append(outputs.head["cls_logits"].grad.any(-1))
    its_own = finds[0] & ~finds[1]
    assert its_own[2].any()
    assert not its_own[:2].any()
    assert classes[0][its_own].all()
    assert not classes[1][its_own].any()


@pytest.mark.parametrize("name", DENSE)
def test_outside_of_annotated_areas_nothing_is_wrong(name: str) -> None:
    detector, wanted = make(name), goal()
    wanted.boxes[0, 2], wanted.labels[0, 2] = torch.tensor([4.0, 2, 44, 30]), KNOWN
    outputs = said(detector)
    detector.loss(outputs, wanted).backward()
    centre = (outputs.anchors[:, :2] + outputs.anchors[:, 2:]) / 2
    inside = ((centre >= torch.tensor([4, 2])) & (centre <= torch.tensor([44, 30]))).all(1)
    told, finds = (outputs.head[k].grad[0].any(-1) for k in ("cls_logits", "bbox_regression"))
    assert not told[~inside & ~finds].any()
    assert told[inside & ~finds].any()


@pytest.mark.parametrize("name", SMALL)
def test_a_frame_of_which_nothing_is_known_gives_no_gradient(name: str) -> None:
    """Though a box of weight 0 is in it."""
    detector = make(name)
    boxes = torch.tensor([[[-2.0, -2, -2, -2], [8, 6, 28, 24]]]).repeat(2, 1, 1)
    unknown = Goal(boxes, torch.tensor([[KNOWN, 0]] * 2), torch.tensor([[1.0, 0]] * 2))
    outputs = detector.outputs(noise(2))
    loss = detector.loss(outputs, unknown)
    grads = torch.autograd.grad(loss, list(detector.parameters()), allow_unused=True, retain_graph=True)
    assert not any(g is not None and g.any() for g in grads)
    loss = detector.loss(outputs, unknown._replace(weight=torch.tensor([[1.0, 0.1]] * 2)))
    assert any(
        g is not None and g.any()
        for g in torch.autograd.grad(loss, list(detector.parameters()), allow_unused=True)
    )


@pytest.mark.parametrize("name", SMALL)
def test_a_box_without_area_is_none(name: str) -> None:
    """What a detector finds outside of the frame is such a box once it is cut at the border."""
    detector, wanted = make(name), goal()
    outputs = detector.outputs(noise())
    without = detector.loss(outputs, wanted)
    wanted.boxes[1, 0], wanted.boxes[1, 2] = torch.tensor([64.0, 5, 64, 20]), torch.tensor([9.0, 9, 9, 9])
    wanted.labels[1, 0], wanted.labels[1, 2] = 0, 1
    assert torch.equal(detector.loss(outputs, wanted), without)


# --- learning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps"), [("fcos", 80), ("retinanet", 60), ("ssdlite", 60), ("faster_rcnn", 60)]
)
def test_it_learns_one_frame_and_finds_its_boxes(name: str, steps: int) -> None:
    """A bright rectangle and a grey one, which are two classes."""
    frames, rows = scene(3, 8)
    number = int(((rows[..., 4] >= 0).sum(1) == 2).nonzero()[0])
    x, y = as_floats(frames[number]).clone(), rows[number, :2]
    left, top, right, bottom = y[1, :4].int().tolist()
    x[:, top:bottom, left:right] = 0.5
    # Twice the frame, for normalisation over a map of one place. It is asked as it learns, in training
    # mode: running means of so few steps are far behind.
    x, boxes, labels = x.repeat(2, 1, 1, 1), y[:, :4].repeat(2, 1, 1), torch.tensor([[0, 1]] * 2)
    detector = make(name)
    optimizer = torch.optim.Adam(detector.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = detector.loss(detector.outputs(x), Goal(boxes, labels, torch.ones(2, 2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = detector.found(detector.outputs(x))
    for kind in (0, 1):
        surest = found.scores[0].masked_fill(found.labels[0] != kind, 0.0).argmax()
        assert found.labels[0, surest] == kind
        assert iou(found.boxes[0, surest, None], boxes[0, kind, None]).item() > 0.5


@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster_rcnn"])
def test_scores_go_down_where_there_is_no_box(name: str) -> None:
    detector, x = make(name), noise(2)
    empty = Goal(torch.zeros(2, SLOTS, 4), torch.full((2, SLOTS), EMPTY), torch.ones(2, SLOTS))
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


def test_ssd_learns_nothing_of_a_frame_without_boxes() -> None:
    """Three hardest negatives a positive are learnt from (Liu et al. 2016, section 2.2): none of none."""
    outputs = said(make("ssdlite"))
    empty = goal()._replace(labels=torch.full((FRAMES, SLOTS), EMPTY))
    loss = make("ssdlite").loss(outputs, empty)
    loss.backward()
    assert loss == 0
    assert not any(t.grad.any() for t in outputs.head.values())


# --- detections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("detections", [7, 1200])
@pytest.mark.parametrize("name", SMALL)
def test_detections_lie_in_slots(name: str, detections: int) -> None:
    detector = make(name, detections=detections, least=0.3)
    outputs = said(detector) if isinstance(detector, Dense) else detector.outputs(noise())
    found = detector.found(outputs)
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


@pytest.mark.parametrize("name", DENSE)
def test_what_is_found_is_what_torchvision_finds(name: str) -> None:
    """With as many places as there are: neither leaves any out before the suppression."""
    more = {} if name == "ssdlite" else {"strides": [16, 32]}
    detector: Any = make(name, detections=20, **more)
    outputs = said(detector)
    model = detector.model
    model.nms_thresh, model.score_thresh, model.detections_per_img = detector.nms, detector.least, 20
    model.topk_candidates = CANDIDATES
    sizes, anchors = [(HEIGHT, WIDTH)] * FRAMES, outputs.anchors
    if name == "ssdlite":
        expected = model.postprocess_detections(outputs.head, [anchors] * FRAMES, sizes)
    else:
        head = {k: list(v.split(outputs.levels, 1)) for k, v in outputs.head.items()}
        expected = model.postprocess_detections(head, [list(anchors.split(outputs.levels))] * FRAMES, sizes)
    boxes, scores, labels = detector.found(outputs)
    for i, frame in enumerate(expected):
        count = len(frame["scores"])
        assert (scores[i] > 0).sum() == count > 5
        torch.testing.assert_close(scores[i, :count], frame["scores"])
        assert torch.equal(labels[i, :count], frame["labels"] - int(name == "ssdlite"))
        torch.testing.assert_close(boxes[i, :count], frame["boxes"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", DENSE)
def test_peers_find_together_what_each_finds_alone(name: str) -> None:
    detector: Any = make(name)
    each = [said(detector, seed) for seed in range(3)]
    heads = {k: torch.stack([o.head[k].detach() for o in each]) for k in each[0].head}
    together = vmap(lambda head: detector.found(each[0]._replace(head=head)))(heads)
    for i, outputs in enumerate(each):
        for many, one in zip(together, detector.found(outputs), strict=True):
            torch.testing.assert_close(many[i], one)


# --- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("yolo", {}, "there is no detector 'yolo'; there are fcos, retinanet"),
        ("fcos", {"chanels": 8}, "detector 'fcos' has no setting 'chanels'; it takes backbone, channels, convs"),
        ("ssdlite", {"backbone": "resnet18"}, "detector 'ssdlite' has no setting 'backbone'; it takes height"),
        ("retinanet", {"backbone": "resnet0"}, "timm has no model 'resnet0'"),
        ("retinanet", {"strides": [8, 64]}, "strides 2, 4, 8, 16, 32, none of 64; change the detector's strides"),
        ("faster_rcnn", {"strides": [3]}, "none of 3; change the detector's strides"),
        ("torchvision", {"name": "yolo"}, "torchvision has no detector 'yolo'; it has .*ssdlite320_mobilenet_v3"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused_in_one_line(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(name, CLASSES, settings)
    assert "\n" not in str(error.value)
