"""RT-DETR, D-FINE and YOLOS: from a configuration alone, in pixels, and learning from weighed boxes."""

import copy
import math
import socket

import pytest
import torch
from torch import Tensor
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss
from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

from mmkd.functional.detection.boxes import EMPTY, KNOWN, area, centred, iou
from mmkd.functional.random import generator
from mmkd.students.detectors.base import Goal
from mmkd.students.detectors.transformers import (
    DFine,
    HybridDetector,
    Layer,
    RTDetr,
    Said,
    SetDetector,
    Yolos,
)
from mmkd.types import ConfigError

HEIGHT, WIDTH, CLASSES, QUERIES = 96, 128, 3, 12
BOXES = [[10.0, 10.0, 40.0, 40.0], [60.0, 20.0, 100.0, 80.0], [0.0, 50.0, 25.0, 96.0], [0.0] * 4]
LABELS = [0, 2, 1, EMPTY]


def rt_detr(**kwargs) -> RTDetr:
    return RTDetr(CLASSES, config={"num_queries": QUERIES, "decoder_layers": 2}, **kwargs)


def d_fine(**kwargs) -> DFine:
    return DFine(CLASSES, config={"num_queries": QUERIES, "decoder_layers": 2}, **kwargs)


def yolos(**kwargs) -> Yolos:
    config = {"num_detection_tokens": QUERIES, "num_hidden_layers": 2}
    return Yolos(CLASSES, size=(HEIGHT, WIDTH), config=config, **kwargs)


every = pytest.mark.parametrize("build", [rt_detr, d_fine, yolos])


def frames(batch: int = 1) -> Tensor:
    """Each object is a rectangle of its class' colour."""
    x = 0.2 * torch.rand(batch, 3, HEIGHT, WIDTH, generator=generator(0, "frames"))
    for (left, top, right, bottom), label in zip(BOXES[:3], LABELS[:3], strict=True):
        x[:, label, int(top) : int(bottom), int(left) : int(right)] = 1.0
    return x


def goal(batch: int = 1) -> Goal:
    boxes, labels = torch.tensor(BOXES).expand(batch, -1, -1), torch.tensor(LABELS).expand(batch, -1)
    return Goal(boxes, labels, torch.ones(batch, len(LABELS)))


def perfect(detector: SetDetector) -> Said:
    """Three queries find the objects in a frame of 90 x 120 pixels, ever surer; the others find nothing."""
    logits = torch.full((1, QUERIES, CLASSES), -9.0)
    boxes = torch.tensor([0.5, 0.5, 0.1, 0.1]).repeat(1, QUERIES, 1)
    for i, (box, label) in enumerate(zip(BOXES[:3], LABELS[:3], strict=True)):
        logits[0, i, label] = 3.0 + i
        boxes[0, i] = centred(torch.tensor(box)) / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    if isinstance(detector, Yolos):
        logits = torch.cat([logits, torch.ones(1, QUERIES, 1)], -1)
    return Said((Layer(logits.requires_grad_(), boxes.requires_grad_()),), (90, 120), (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    "build", [lambda: RTDetr(CLASSES), lambda: DFine(CLASSES), lambda: Yolos(CLASSES, size=(HEIGHT, WIDTH))]
)
def test_it_is_small_and_built_without_a_network(build, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    detector = build()
    assert 0.5e6 < sum(p.numel() for p in detector.parameters()) < 1.5e6


@every
@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (90, 130)])
def test_every_query_says_something_and_the_surest_are_found(build, height: int, width: int) -> None:
    detector = build(detections=QUERIES + 3)
    outputs = detector.outputs(torch.rand(2, 3, height, width, generator=generator(0, "noise")))
    maps, found = detector.maps(outputs), detector.found(outputs)
    assert maps.logits.shape == (2, QUERIES, CLASSES)
    assert maps.boxes.shape == (2, QUERIES, 4)
    assert found.scores.shape == found.labels.shape == (2, QUERIES + 3)
    torch.testing.assert_close(
        found.scores[:, :QUERIES], maps.logits.sigmoid().amax(-1).sort(descending=True).values
    )
    assert not found.scores[:, QUERIES:].any()
    assert (found.labels[:, QUERIES:] == EMPTY).all()
    assert found.labels[:, :QUERIES].amin() >= 0
    assert (found.boxes[..., 2:] <= torch.tensor([width, height])).all()


@every
def test_perfect_boxes_are_found_in_pixels(build) -> None:
    detector = build(detections=3)
    found = detector.found(perfect(detector))
    # The surest first, and what lies in the padding is no part of the frame.
    seen = torch.tensor(BOXES[:3]).minimum(torch.tensor([120.0, 90.0, 120.0, 90.0]))
    torch.testing.assert_close(found.boxes[0], seen.flip(0))
    assert found.labels[0].tolist() == [1, 2, 0]
    odds = torch.tensor([5.0, 4.0, 3.0])
    if isinstance(detector, Yolos):
        odds -= math.log(math.e + 2 * math.exp(-9))  # against nothing and two other classes
    torch.testing.assert_close(found.scores[0], odds.sigmoid())


@every
def test_a_query_is_drawn_to_its_object_alone(build) -> None:
    detector = build()
    outputs = perfect(detector)
    aside = goal()._replace(boxes=torch.tensor(BOXES)[None] + torch.tensor([4.0, 0.0, 4.0, 0.0]))
    detector.loss(outputs, aside).backward()
    boxes = outputs.layers[0].boxes
    assert (boxes.grad[0, :3, 0] < 0).all(), "the objects lie to the right"
    assert not boxes.grad[0, 3:].any()


@every
def test_areas_and_weights_are_those_of_the_frame_in_pixels(build) -> None:
    detector = build()
    outputs = perfect(detector)
    logits, boxes = outputs.layers[0]
    with torch.no_grad():
        boxes[0, 3:, :2] = torch.tensor([100.5, 80.5]) / torch.tensor([WIDTH, HEIGHT])
        boxes[0, 4, :2] = torch.tensor([101.5, 80.5]) / torch.tensor([WIDTH, HEIGHT])
        boxes[0, 5, :2] = torch.tensor([100.5, 81.5]) / torch.tensor([WIDTH, HEIGHT])
    wanted, labels, weight = (t.clone() for t in goal())
    wanted[0, 3], labels[0, 3] = torch.tensor([90.0, 70.0, 101.0, 81.0]), KNOWN
    weight[0, 1] = 0.0
    detector.loss(outputs, Goal(wanted, labels, weight)).backward()
    told = logits.grad[0].any(-1)
    assert told[:6].tolist() == [True, False, True, True, False, False]
    assert not boxes.grad[0, 1].any()


@pytest.mark.parametrize("build", [rt_detr, d_fine])
def test_its_loss_is_that_of_transformers_over_all_layers(build) -> None:
    torch.manual_seed(0)
    detector = build()
    outputs = detector.outputs(frames(2))
    layers = [torch.stack(t, 1) for t in zip(*outputs.layers[1:], strict=True)]
    scale = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    labels = [
        {"class_labels": torch.tensor(LABELS[:3]), "boxes": centred(torch.tensor(BOXES[:3]) / scale)}
    ] * 2
    theirs = RTDetrForObjectDetectionLoss(
        outputs.layers[-1].logits,
        labels,
        "cpu",
        outputs.layers[-1].boxes,
        detector.model.config,
        *layers,
        *outputs.layers[0],
    )[0]
    torch.testing.assert_close(detector.loss(outputs, goal(2)), theirs)
    # The encoder's proposals, and each layer of the decoder; D-FINE's first layer says two things.
    assert len(outputs.layers) == (3 if build is rt_detr else 4)


def test_the_loss_of_yolos_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    detector = yolos()
    outputs = detector.outputs(frames(2))
    scale = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    labels = [
        {"class_labels": torch.tensor(LABELS[:3]), "boxes": centred(torch.tensor(BOXES[:3]) / scale)}
    ] * 2
    (layer,) = outputs.layers
    theirs = ForObjectDetectionLoss(layer.logits, labels, "cpu", layer.boxes, detector.model.config)[0]
    torch.testing.assert_close(detector.loss(outputs, goal(2)), theirs)


@every
def test_it_learns_one_frame_and_all_of_it_learns(build) -> None:
    torch.manual_seed(0)
    detector, x = build(), frames()

    def overlap() -> Tensor:
        """How well the objects are found, on average."""
        return iou(detector.found(detector.outputs(x)).boxes, goal().boxes)[0, :, :3].amax(0).mean()

    with torch.inference_mode():
        before = overlap()  # what the library keeps of this pass must not get into the next one's graph
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        loss = detector.loss(detector.outputs(x), goal())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 3.0)
        optimizer.step()
        losses.append(loss.detach())
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    assert torch.stack(losses[-10:]).mean() < 2 / 3 * losses[0]
    assert overlap() > before + 0.15


@every
def test_frames_without_objects_have_a_loss_of_classes_alone(build) -> None:
    torch.manual_seed(0)
    detector = build()
    outputs = detector.outputs(frames(2))
    _, labels, weight = goal(2)
    loss = detector.loss(outputs, Goal(torch.zeros(2, 4, 4), torch.full_like(labels, EMPTY), weight))
    assert loss.isfinite()
    logits, boxes = outputs.layers[-1]
    grads = torch.autograd.grad(loss, (logits, boxes), allow_unused=True)
    assert grads[0].any(-1).all()
    assert grads[1] is None or not grads[1].any()


@every
def test_queries_of_a_new_model_differ(build) -> None:
    torch.manual_seed(0)
    detector = build()
    boxes = detector.maps(detector.outputs(frames())).boxes[0]
    assert (boxes[1:] != boxes[:1]).any(-1).all()
    assert area(boxes).min() > 0


@pytest.mark.parametrize("build", [rt_detr, d_fine])
def test_normalisation_starts_at_one_and_is_not_frozen(build) -> None:
    layers = [m for m in build().modules() if "BatchNorm" in type(m).__name__]
    assert layers
    assert all(torch.equal(m.weight, torch.ones_like(m.weight)) and m.weight.requires_grad for m in layers)


@every
def test_a_state_makes_another_the_same(build) -> None:
    torch.manual_seed(0)
    detector, other = build().eval(), build().eval()
    other.load_state_dict(copy.deepcopy(detector.state_dict()))
    assert torch.equal(
        detector.maps(detector.outputs(frames())).logits, other.maps(other.outputs(frames())).logits
    )


@pytest.mark.parametrize("kind", [RTDetr, DFine])
def test_entries_of_a_backbone_are_replaced_one_by_one(kind: type[HybridDetector]) -> None:
    entry = {"depths": [1, 1, 2, 1]} if kind is RTDetr else {"stage_num_blocks": [1, 1, 2, 1]}
    wide, narrow = kind(CLASSES, config={"backbone_config": entry}), kind(CLASSES)
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in narrow.parameters())
    other = {
        "model_type": "resnet",
        "hidden_sizes": [16, 16, 32, 32],
        "depths": [1, 1, 1, 1],
        "embedding_size": 16,
    }
    mixed = kind(
        CLASSES, config={"backbone_config": {**other, "layer_type": "basic", "out_indices": [2, 3, 4]}}
    )
    assert mixed.maps(mixed.outputs(frames())).boxes.isfinite().all()


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"num_querys": 3}, "no setting 'num_querys'; did you mean num_queries"),
        ({"matcher_alpha": 0.5}, "'matcher_alpha'; remove it"),
        ({"num_denoising": 5}, "'num_denoising'; remove it"),
        ({"num_labels": 5}, "'num_labels'; remove it"),
        ({"backbone_config": {"use_pretrained_backbone": True}}, "no setting 'use_pretrained_backbone'"),
    ],
)
def test_entries_without_effect_are_refused(config: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        RTDetr(CLASSES, config=config)


def test_frames_with_too_few_places_are_refused() -> None:
    # 8 x 4 places of stride 8, 4 x 2 of 16 and 2 x 1 of 32
    detector = RTDetr(CLASSES, config={"num_queries": 43})
    with pytest.raises(ConfigError, match="set num_queries to 42 or less"):
        detector.outputs(torch.zeros(1, 3, 60, 30))
