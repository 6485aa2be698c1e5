"""Metrics of detection: those of COCO's own code, counts by hand, and what has no meaning."""

from __future__ import annotations

import contextlib
import io
import math

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from mmkd.evaluation.precision import Detections, errors
from mmkd.functional.detection.boxes import EMPTY, KNOWN, UNLABELLED
from mmkd.types import ConfigError

NOTHING = [0.0, 0, 0, 0, 0, EMPTY]
NO_OBJECT = [0.0, 0, 0, 0, EMPTY]


def scene(
    seed: int, frames: int = 12, slots: int = 20, classes: int = 2, peers: int = 1, cell: int = 20
) -> tuple[Tensor, Tensor]:
    """Objects in random places, and peers who find some of them, some twice and some that are not there.

    Corners are whole numbers and scores few, so that equal overlaps and equal scores occur.
    """
    g = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=g).float()

    corner = whole(0, 5, frames, slots, 2) * cell
    size = whole(cell // 2, 2 * cell, frames, slots, 2)
    label = whole(EMPTY, classes, frames, slots, 1)
    y = torch.cat([corner, corner + size, label], -1)
    # Every detection is an object of some slot, off by a little.
    which = torch.randint(0, slots, (peers, frames, slots), generator=g)
    near = y[torch.arange(frames)[:, None], which]
    boxes = near[..., :4] + whole(-3, 4, peers, frames, slots, 4)
    score = whole(0, 9, peers, frames, slots, 1) / 8
    guess = whole(EMPTY, classes, peers, frames, slots, 1)
    named = torch.where(torch.rand(peers, frames, slots, 1, generator=g) < 0.8, near[..., 4:], guess)
    return torch.cat([boxes, score, named], -1), y


def coco(said: Tensor, y: Tensor) -> tuple[float, float]:
    """What COCO's own code finds of one peer: AP at 0.5, and over all overlaps."""

    def row(number: int, frame: int, values: list[float]) -> dict[str, object]:
        x1, y1, x2, y2, *score, label = values
        width, height = x2 - x1, y2 - y1
        return {
            "id": number,
            "image_id": frame,
            "category_id": int(label),
            "bbox": [x1, y1, width, height],
            "area": width * height,
            "iscrowd": 0,
            **({"score": score[0]} if score else {}),
        }

    truth, found = (
        [(frame, v) for frame, rows in enumerate(t.tolist()) for v in rows if v[-1] >= 0] for t in (y, said)
    )
    names = {int(v[-1]) for _, v in truth + found}
    dataset = {
        "info": {},
        "images": [{"id": frame} for frame in range(len(y))],
        "categories": [{"id": name} for name in names],
        "annotations": [row(i, *one) for i, one in enumerate(truth, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = dataset
        reference.createIndex()
        evaluation = COCOeval(
            reference, reference.loadRes([row(i, *one) for i, one in enumerate(found, 1)]), "bbox"
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[1], evaluation.stats[0]


def counted(said: Tensor, y: Tensor, threshold: float) -> tuple[float, float]:
    """Precision and recall of one peer, one detection at a time."""
    right = total = objects = 0
    for detections, rows in zip(said.tolist(), y.tolist(), strict=True):
        left = [row for row in rows if row[4] >= 0]
        objects += len(left)
        sure = [d for d in detections if d[5] >= 0 and d[4] >= threshold]
        for d in sorted(sure, key=lambda d: -d[4]):
            total += 1
            best, chosen = 0.5, None
            for row in left:
                width, height = min(d[2], row[2]) - max(d[0], row[0]), min(d[3], row[3]) - max(d[1], row[1])
                common = max(0, width) * max(0, height)
                whole = (d[2] - d[0]) * (d[3] - d[1]) + (row[2] - row[0]) * (row[3] - row[1]) - common
                if row[4] == d[5] and common / whole >= best:  # of equals the last, as COCO has it
                    best, chosen = common / whole, row
            if chosen is not None:
                left = [row for row in left if row is not chosen]
                right += 1
    return right / max(1, total), right / objects


def of_one(
    said: list[list[list[float]]], y: list[list[list[float]]], threshold: float = 0.5
) -> dict[str, float]:
    """Metrics of one peer in some frames."""
    detections = Detections(threshold)
    detections.update(["a"], torch.tensor([said]), torch.tensor(y))
    return detections.compute()["a"]


# --- against others' code -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("classes", [1, 2])
def test_average_precision_is_cocos(seed: int, classes: int) -> None:
    said, y = scene(seed, classes=classes, peers=2)
    detections = Detections()
    for part in (slice(5), slice(5, 12)):  # in two batches
        detections.update(["a", "b"], said[:, part], y[part])
    metrics = detections.compute()
    for peer, name in enumerate("ab"):
        expected = coco(said[peer], y)
        assert 0.05 < expected[1] < expected[0] < 0.95
        assert (metrics[name]["map50"], metrics[name]["map"]) == pytest.approx(expected, abs=1e-6)
    assert metrics["a"] != metrics["b"]


def test_more_than_a_hundred_detections_in_a_frame() -> None:
    """COCO looks at the hundred surest of a class, and the library says nothing."""
    said, y = scene(0, frames=1, slots=300, classes=1)
    assert ((said[0, ..., 5] >= 0).sum(-1) > 100).all()
    detections = Detections()
    detections.update(["a"], said, y)
    metrics = detections.compute()["a"]
    assert (metrics["map50"], metrics["map"]) == pytest.approx(coco(said[0], y), abs=1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_precision_and_recall_are_counted(seed: int, threshold: float) -> None:
    said, y = scene(seed, peers=3, cell=8)  # small cells: many objects overlap
    detections = Detections(threshold)
    for part in (slice(5), slice(5, 12)):
        detections.update("abc", said[:, part], y[part])
    metrics = detections.compute()
    for peer, name in enumerate("abc"):
        expected = counted(said[peer], y, threshold)
        assert (metrics[name]["precision"], metrics[name]["recall"]) == pytest.approx(expected, abs=1e-12)
        assert 0 < expected[1] < 1


# --- by hand ------------------------------------------------------------------------------------------


def test_one_of_two_objects_is_found() -> None:
    objects = [[0.0, 0, 10, 10, 0], [20.0, 0, 30, 10, 0], NO_OBJECT]
    # Of width 8 the IoU is 0.8, which passes seven of the ten overlaps 0.5, 0.55, ... 0.8. With half of the
    # objects found without an error the precision is 1 up to a recall of 0.5: at 51 of 101 points.
    metrics = of_one([[[0.0, 0, 8, 10, 0.9, 0], NOTHING]], [objects])
    assert metrics["map50"] == pytest.approx(51 / 101)
    assert metrics["map"] == pytest.approx(51 / 101 * 0.7)
    assert (metrics["precision"], metrics["recall"]) == (1, 0.5)


def test_an_object_is_found_once() -> None:
    twice = [[0.0, 0, 10, 10, 0.8, 0], [0.0, 0, 10, 10, 0.9, 0]]
    metrics = of_one([twice], [[[0.0, 0, 10, 10, 0]]])
    assert (metrics["precision"], metrics["recall"]) == (0.5, 1)


def test_the_surest_chooses_first() -> None:
    # A (0 to 10) and B (4 to 14): the surest, 1 to 11, takes A (9/11, to 7/13); the other, 0 to 9, has an IoU
    # of 9/10 with A and 5/14 with B.
    objects = [[0.0, 0, 10, 1, 0], [4.0, 0, 14, 1, 0]]
    metrics = of_one([[[0.0, 0, 9, 1, 0.6, 0], [1.0, 0, 11, 1, 0.9, 0]]], [objects])
    assert (metrics["precision"], metrics["recall"]) == (0.5, 0.5)
    # The other way round both find one.
    metrics = of_one([[[0.0, 0, 9, 1, 0.9, 0], [1.0, 0, 11, 1, 0.6, 0]]], [objects])
    assert (metrics["precision"], metrics["recall"]) == (1, 1)


def test_of_two_objects_overlapped_alike_the_last_is_found() -> None:
    # 2 to 12 shares 8 of 12 with either; 5 to 15 has an IoU of 9/11 with the second, and 5/15 with the first.
    first, second = [0.0, 0, 10, 1, 0], [4.0, 0, 14, 1, 0]
    said = [[[2.0, 0, 12, 1, 0.9, 0], [5.0, 0, 15, 1, 0.6, 0]]]
    assert of_one(said, [[first, second]])["recall"] == 0.5
    assert of_one(said, [[second, first]])["recall"] == 1


def test_the_threshold_is_for_precision_and_recall_only() -> None:
    said, y = [[[0.0, 0, 10, 10, 0.5, 0], [50.0, 0, 60, 10, 0.25, 0]]], [[[0.0, 0, 10, 10, 0]]]
    assert of_one(said, y, 0.5) == {"map50": 1, "map": 1, "recall": 1, "precision": 1}
    assert of_one(said, y, 0.25) == {"map50": 1, "map": 1, "recall": 1, "precision": 0.5}
    assert of_one(said, y, 0.75) == {"map50": 1, "map": 1, "recall": 0, "precision": 0}


def test_classes_have_equal_weight_in_average_precision() -> None:
    # Of class 0 all three are found, of class 1 none: the one detected as class 0 finds nothing.
    objects = [[20.0 * i, 0, 20.0 * i + 10, 10, float(i == 3)] for i in range(4)]
    said = [[*box[:4], 0.9 - 0.1 * i, 0] for i, box in enumerate(objects)]
    metrics = of_one([said], [objects])
    assert (metrics["map50"], metrics["map"]) == (0.5, 0.5)
    assert (metrics["precision"], metrics["recall"]) == (0.75, 0.75)
    # A class of which there is no object has no weight, however often it is detected.
    metrics = of_one([[[*row[:5], 2.0 if row[5] else 0.0] for row in said]], [objects[:3]])
    assert metrics["map50"] == 1


def test_frames_without_objects_count_what_is_detected_there() -> None:
    car, nothing = [0.0, 0, 10, 10], [NO_OBJECT]
    y = [[[*car, 0.0]], nothing]
    metrics = of_one([[[*car, 0.8, 0]], [NOTHING]], y)
    assert metrics == {"map50": 1, "map": 1, "recall": 1, "precision": 1}
    # The surer one is wrong: precision at full recall is 1/2, at every point.
    metrics = of_one([[[*car, 0.8, 0]], [[*car, 0.9, 0]]], y)
    assert metrics == {"map50": 0.5, "map": 0.5, "recall": 1, "precision": 0.5}


# --- annotated areas ----------------------------------------------------------------------------------


def test_outside_of_annotated_areas_nothing_counts() -> None:
    areas = [[0.0, 0, 50, 50, KNOWN], [100.0, 0, 150, 50, KNOWN]]
    y = [[*areas, [110.0, 10, 120, 20, 0]], [[110.0, 10, 120, 20, 0], NO_OBJECT, NO_OBJECT]]
    right, between = [110.0, 10, 120, 20, 0.6, 0], [55.0, 10, 95, 20, 0.9, 0]
    inside, edge = [10.0, 10, 20, 20, 0.9, 0], [45.0, 10, 55, 20, 0.9, 0]  # the centre of the last is in
    rest = [right, NOTHING]
    assert of_one([[right, between], rest], y) == {"map50": 1, "map": 1, "recall": 1, "precision": 1}
    assert of_one([[right, inside], rest], y)["precision"] == pytest.approx(2 / 3)
    assert of_one([[right, edge], rest], y)["precision"] == pytest.approx(2 / 3)
    # The other frame has no areas, so that all of it is annotated. Two right after a surer one that is wrong:
    # precision is 2/3 at full recall, and no greater before.
    metrics = of_one([rest, [right, between]], y)
    assert metrics["precision"] == pytest.approx(2 / 3)
    assert metrics["map50"] == pytest.approx(2 / 3)


def test_objects_without_a_label_are_neither_right_nor_wrong() -> None:
    here, there = [0.0, 0, 10, 10], [20.0, 0, 30, 10]
    y = [[[*here, 0], [*there, UNLABELLED]], [[*here, 0], NO_OBJECT]]
    all_right = {"map50": 1, "map": 1, "recall": 1, "precision": 1}
    right, sure, doubled = [*here, 0.6, 0], [*there, 0.9, 0], [*there, 0.8, 0]
    assert of_one([[right, sure, doubled], [right, NOTHING, NOTHING]], y) == all_right
    # Not in the other frame, where it is not; nor where it overlaps by 5 / 15.
    assert of_one([[right, NOTHING], [right, sure]], y)["precision"] == pytest.approx(2 / 3)
    beside = [25.0, 0, 35, 10, 0.9, 0]
    assert of_one([[right, beside], [right, NOTHING]], y)["precision"] == pytest.approx(2 / 3)


def test_a_detection_is_of_the_object_that_it_overlaps_most() -> None:
    # The two objects overlap by 8 / 12: what is right of one is not lost to the other.
    labelled, other = [0.0, 0, 10, 10], [2.0, 0, 12, 10]
    y = [[[*other, UNLABELLED], [*labelled, 0]]]
    assert of_one([[[*labelled, 0.9, 0]]], y) == {"map50": 1, "map": 1, "recall": 1, "precision": 1}
    # As near to either, it counts.
    assert of_one([[[1.0, 0, 11, 10, 0.9, 0]]], y)["recall"] == 1
    assert of_one([[[*other, 0.9, 0]]], y) == {"map50": 0, "map": 0, "recall": 0, "precision": 0}


# --- what has no meaning ------------------------------------------------------------------------------


def test_a_peer_that_detects_nothing() -> None:
    assert of_one([[NOTHING]], [[[0.0, 0, 10, 10, 0]]]) == {"map50": 0, "map": 0, "recall": 0, "precision": 0}


@pytest.mark.parametrize("rows", [[NO_OBJECT], [[0.0, 0, 90, 90, KNOWN]], []])
def test_where_there_is_no_object_only_precision_has_a_meaning(rows: list[list[float]]) -> None:
    y = torch.tensor([rows]).view(1, len(rows), 5)
    detections = Detections()
    detections.update(["a", "b"], torch.tensor([[[[0.0, 0, 10, 10, 0.9, 0]]], [[NOTHING]]]), y)
    assert detections.compute() == {"a": {"precision": 0}, "b": {}}


@pytest.mark.parametrize("column", range(6))
def test_what_is_not_finite_is_no_detection(column: int) -> None:
    right, broken = [0.0, 0, 10, 10, 0.8, 0], [0.0, 0, 10, 10, 0.9, 0]
    for value in (math.nan, math.inf):
        broken[column] = value
        metrics = of_one([[right, broken]], [[[0.0, 0, 10, 10, 0]]])
        assert metrics == {"map50": 1, "map": 1, "recall": 1, "precision": 1}


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_a_threshold_is_a_score(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"threshold must lie in \[0, 1\]"):
        Detections(threshold)


# --- several peers ------------------------------------------------------------------------------------


def test_peers_are_counted_apart_and_forgotten() -> None:
    """Some read one batch, some another; and each has the metrics that it has alone."""
    said, y = scene(0, peers=3)
    detections = Detections()
    detections.update(["a", "b"], said[:2, :6], y[:6])
    detections.update(["c", "a"], said[[2, 0], 6:], y[6:])
    together = detections.compute()
    assert detections.compute() == {}
    for name, peer, part in (("a", 0, slice(12)), ("b", 1, slice(6)), ("c", 2, slice(6, 12))):
        detections.update([name], said[[peer], part], y[part])
        assert detections.compute() == {name: together[name]}


@pytest.mark.parametrize("seed", range(3))
def test_errors_of_frames_are_what_precision_and_recall_lack(seed: int) -> None:
    """Objects without those that are found, and detections without those that find one, frame by frame."""
    said, y = scene(seed)
    own = errors(said[0], y)
    for frame in range(len(y)):
        precision, recall = counted(said[0, frame : frame + 1], y[frame : frame + 1], 0.5)
        sure = int(((said[0, frame, :, 5] >= 0) & (said[0, frame, :, 4] >= 0.5)).sum())
        objects = int((y[frame, :, 4] >= 0).sum())
        assert int(own[frame]) == round(objects * (1 - recall) + sure * (1 - precision))


def test_errors_by_hand() -> None:
    """One of two objects found, one detection that finds none, and one that is not sure; and nothing at all."""
    y = torch.tensor([[[0.0, 0, 10, 10, 0], [20, 20, 30, 30, 0]], [NO_OBJECT, NO_OBJECT]])
    said = torch.tensor(
        [
            [[0.0, 0, 10, 9, 0.9, 0], [50, 50, 60, 60, 0.8, 0], [20, 20, 30, 30, 0.4, 0]],
            [NOTHING, NOTHING, NOTHING],
        ]
    )
    assert errors(said, y).tolist() == [2, 0]
    assert errors(said, y, threshold=0.4).tolist() == [1, 0]
