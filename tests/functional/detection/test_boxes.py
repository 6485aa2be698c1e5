"""Boxes: overlap as torchvision has it, fusion as its paper has it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from mmkd.functional.detection.boxes import EMPTY, area, centred, fuse, generalised_iou, iou, settle

ALL = torch.ones(1, 2, dtype=torch.bool)
"""Two speakers, and both are there."""


def draw(*shape: int, seed: int = 0, flat: float = 0.0) -> Tensor:
    """Random boxes, some without width or height."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=g) * 60
    size = torch.rand(*shape, 2, generator=g) * 30 + 1
    size = size * (torch.rand(*shape, 2, generator=g) >= flat)
    return torch.cat([corner, corner + size], -1)


# --- overlap -----------------------------------------------------------------------------------------


def test_overlap_of_every_pair_of_every_sample() -> None:
    a, b = draw(3, 7, seed=1, flat=0.1), draw(3, 5, seed=2)
    for sample in range(3):
        torch.testing.assert_close(iou(a, b)[sample], box_iou(a[sample], b[sample]))
    assert (iou(a, b) > 0.2).any()


def test_boxes_without_area_overlap_nothing() -> None:
    a = torch.tensor([[1.0, 1, 1, 1], [1, 1, 4, 1], [4, 4, 2, 2]])  # a point, a line, one that is inside out
    assert area(a).tolist() == [0, 0, 0]
    assert iou(a, torch.cat([a, torch.tensor([[0.0, 0, 9, 9]])])).tolist() == [[0.0] * 4] * 3


def test_generalised_overlap() -> None:
    a, b = draw(50, seed=3, flat=0.1), draw(50, seed=4)
    torch.testing.assert_close(generalised_iou(a, b), generalized_box_iou(a, b).diagonal())
    # Two unit squares with one between them: no overlap, and a third of their hull is empty.
    left, right = torch.tensor([0.0, 0, 1, 1]), torch.tensor([2.0, 0, 3, 1])
    assert generalised_iou(left, right).item() == pytest.approx(-1 / 3)
    point = torch.tensor([1.0, 1, 1, 1])
    assert generalised_iou(point, point).item() == 0


def test_generalised_overlap_pulls_boxes_together() -> None:
    """Even where they are apart, unlike plain overlap."""
    guess, goal = torch.tensor([0.0, 0, 1, 1], requires_grad=True), torch.tensor([2.0, 0, 3, 1])
    (slope,) = torch.autograd.grad(generalised_iou(guess, goal), guess)
    # Hull of width h = 3 - x1, union of u = 1 + x2 - x1 (height 1): -(h - u) / h = u / h - 1,
    # with slopes (u - h) / h^2 = -1/9 by x1, and 1 / h = 1/3 by x2.
    assert slope[[0, 2]].tolist() == pytest.approx([-1 / 9, 1 / 3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_boxes_in_half_precision(dtype: torch.dtype) -> None:
    """512 x 512 pixels are more than float16 can count."""
    a, b = torch.tensor([[0.0, 0, 512, 512]], dtype=dtype), torch.tensor([[0.0, 256, 512, 512]], dtype=dtype)
    assert area(a).tolist() == [512 * 512]
    assert iou(a, b).item() == 0.5
    assert generalised_iou(a, b).item() == 0.5


def test_centres() -> None:
    boxes = draw(4, 9, flat=0.1)
    torch.testing.assert_close(centred(boxes), box_convert(boxes, "xyxy", "cxcywh"))
    assert centred(torch.tensor([2.0, 4, 8, 5])).tolist() == [5, 4.5, 6, 1]


# --- fusion ------------------------------------------------------------------------------------------


def said(*speakers: list[tuple[list[float], float, int]], slots: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """One sample as speakers see it: boxes, scores and classes, in some slots of each."""
    boxes = torch.zeros(1, len(speakers), slots, 4)
    scores, labels = torch.zeros(1, len(speakers), slots), torch.full((1, len(speakers), slots), EMPTY)
    for speaker, detections in enumerate(speakers):
        for slot, (box, score, label) in enumerate(detections):
            boxes[0, speaker, slot], scores[0, speaker, slot] = torch.tensor(box), score
            labels[0, speaker, slot] = label
    return boxes, scores, labels


def assert_fused(found: tuple[Tensor, Tensor, Tensor], *expected: tuple[list[float], float, int]) -> None:
    """The sample's detections are these, and its other slots are empty."""
    boxes, scores, labels = (t[0] for t in found)
    rest = len(scores) - len(expected)
    corners = torch.tensor([box for box, _, _ in expected] + [[0.0] * 4] * rest, dtype=torch.float32)
    torch.testing.assert_close(boxes, corners)
    torch.testing.assert_close(scores, torch.tensor([score for _, score, _ in expected] + [0.0] * rest))
    assert labels.tolist() == [label for _, _, label in expected] + [EMPTY] * rest


def test_two_speakers_agree() -> None:
    # Of widths 10 and 12 the IoU is 10/12. By scores of 0.9 and 0.3 the mean width is (9 + 3.6) / 1.2.
    both = said([([0.0, 0, 10, 10], 0.9, 1)], [([0.0, 0, 12, 10], 0.3, 1)])
    assert_fused(fuse(*both, ALL, 0.8), ([0, 0, 10.5, 10], 0.6, 1))
    # That is not more than 0.84: two that are alone, so half as sure.
    assert_fused(fuse(*both, ALL, 0.84), ([0, 0, 10, 10], 0.45, 1), ([0, 0, 12, 10], 0.15, 1))


def test_half_is_not_more_than_half() -> None:
    both = said([([0.0, 0, 10, 10], 0.8, 0)], [([0.0, 0, 20, 10], 0.6, 0)])
    assert_fused(fuse(*both, ALL, 0.5), ([0, 0, 10, 10], 0.4, 0), ([0, 0, 20, 10], 0.3, 0))


def test_speakers_disagree_about_the_class() -> None:
    both = said([([0.0, 0, 10, 10], 0.4, 0)], [([0.0, 0, 10, 10], 0.8, 1)])
    assert_fused(fuse(*both, ALL, 0.5), ([0, 0, 10, 10], 0.4, 1), ([0, 0, 10, 10], 0.2, 0))
    # As sure of one as of the other: by class, whoever speaks first.
    one, two = ([0.0, 0, 10, 10], 0.8, 0), ([0.0, 0, 10, 10], 0.8, 1)
    for both in (said([one], [two]), said([two], [one])):
        assert_fused(fuse(*both, ALL, 0.5), ([0, 0, 10, 10], 0.4, 0), ([0, 0, 10, 10], 0.4, 1))


def test_a_speaker_that_detects_nothing_counts_and_a_silent_one_does_not() -> None:
    alone = said([([0.0, 0, 10, 10], 0.8, 0)], [])
    assert_fused(fuse(*alone, ALL, 0.5), ([0, 0, 10, 10], 0.4, 0))
    assert_fused(fuse(*alone, torch.tensor([[True, False]]), 0.5), ([0, 0, 10, 10], 0.8, 0))
    assert_fused(fuse(*alone, torch.tensor([[False, True]]), 0.5))
    assert_fused(fuse(*alone, torch.tensor([[False, False]]), 0.5))
    assert_fused(fuse(*said([], []), ALL, 0.5))


@pytest.mark.parametrize("what", [0, 1])
def test_a_speaker_that_diverged_is_silent(what: int) -> None:
    three = said([([0.0, 0, 10, 10], 0.8, 0)], [([0.0, 0, 10, 10], 0.6, 0), ([20.0, 0, 30, 10], 0.7, 0)])
    three[what][0, 1, 1] = torch.nan
    assert_fused(fuse(*three, ALL, 0.5), ([0, 0, 10, 10], 0.8, 0))


def test_two_boxes_of_a_speaker_are_two_objects() -> None:
    # The surer of the first speaker's is joined by the other speaker's: (0.9 + 0.3) / 2.
    three = said([([0.0, 0, 10, 10], 0.9, 0), ([0.0, 0, 10, 10], 0.6, 0)], [([0.0, 0, 10, 10], 0.3, 0)])
    assert_fused(fuse(*three, ALL, 0.5), ([0, 0, 10, 10], 0.6, 0), ([0, 0, 10, 10], 0.3, 0))
    # Two cars in a row, of which the second speaker saw the right one only.
    row = said([([0.0, 0, 10, 10], 0.9, 0), ([2.0, 0, 12, 10], 0.6, 0)], [([2.0, 0, 12, 10], 0.4, 0)])
    assert_fused(fuse(*row, ALL, 0.5), ([2, 0, 12, 10], 0.5, 0), ([0, 0, 10, 10], 0.45, 0))


def test_clusters_beyond_the_slots_are_the_least_sure() -> None:
    four = said(
        [([0.0, 0, 1, 1], 0.2, 0), ([2.0, 0, 3, 1], 0.8, 0)],
        [([4.0, 0, 5, 1], 0.6, 0), ([6.0, 0, 7, 1], 0.4, 0)],
    )
    assert_fused(fuse(*four, ALL, 0.5), ([2, 0, 3, 1], 0.4, 0), ([4, 0, 5, 1], 0.3, 0))


def crowd(
    seed: int, samples: int = 6, speakers: int = 4, slots: int = 8
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Speakers who see the same objects a little differently, with equal scores among them."""
    g = torch.Generator().manual_seed(seed)
    boxes = draw(samples, 1, slots, seed=seed) + torch.randint(
        0, 4, (samples, speakers, slots, 4), generator=g
    )
    scores = torch.randint(0, 5, (samples, speakers, slots), generator=g) / 4
    labels = torch.randint(EMPTY, 2, (samples, speakers, slots), generator=g)
    return boxes, scores, labels, torch.rand(samples, speakers, generator=g) < 0.8


def test_of_one_speaker_nothing_changes() -> None:
    boxes, scores, labels, _ = crowd(0, speakers=1)
    real = (labels[:, 0] >= 0) & (scores[:, 0] > 0)
    found = fuse(boxes, scores, labels, torch.ones(6, 1, dtype=torch.bool), 0.1)
    for sample in range(6):
        said = (boxes[sample, 0], scores[sample, 0], labels[sample, 0])
        before = [(*b, s, k) for b, s, k in zip(*(t[real[sample]].tolist() for t in said), strict=True)]
        after = [(*b, s, k) for b, s, k in zip(*(t[sample].tolist() for t in found), strict=True) if s]
        assert sorted(before) == sorted(after) != []
        assert found[1][sample].tolist() == sorted(found[1][sample].tolist(), reverse=True)


def literally(
    boxes: Tensor, scores: Tensor, labels: Tensor, there: Tensor, limit: float
) -> list[tuple[float, ...]]:
    """One sample as the paper says it, but a box of a speaker a cluster; scores are all different."""
    every = [
        (scores[j, slot].item(), labels[j, slot].item(), boxes[j, slot].double(), j)
        for j in range(len(there))
        for slot in range(scores.shape[1])
        if there[j] and labels[j, slot] >= 0 and scores[j, slot] > 0
    ]
    clusters: list[list[tuple[float, int, Tensor, int]]] = []
    fused: list[Tensor] = []
    for one in sorted(every, key=lambda detection: -detection[0]):
        overlaps = [
            box_iou(box[None], one[2][None]).item()
            if cluster[0][1] == one[1] and one[3] not in [j for *_, j in cluster]
            else 0.0
            for box, cluster in zip(fused, clusters, strict=True)
        ]
        best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
        if best is None or overlaps[best] <= limit:
            clusters.append([])
            fused.append(one[2])
            best = len(clusters) - 1
        clusters[best].append(one)
        fused[best] = sum(s * b for s, _, b, _ in clusters[best]) / sum(s for s, *_ in clusters[best])
    speakers = int(there.sum())
    rows = []
    for cluster, box in zip(clusters, fused, strict=True):
        mean = sum(s for s, *_ in cluster) / len(cluster)
        rows.append((mean * len(cluster) / speakers, cluster[0][1], *box.tolist()))
    return sorted(rows, reverse=True)[: scores.shape[1]]


@pytest.mark.parametrize("seed", range(5))
def test_fusion_is_the_papers_with_a_box_of_a_speaker(seed: int) -> None:
    boxes, _, labels, there = crowd(seed)
    scores = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed))
    found = fuse(boxes, scores, labels, there, 0.55)
    merged = 0
    for sample in range(6):
        expected = literally(boxes[sample], scores[sample], labels[sample], there[sample], 0.55)
        merged += int((there[sample][:, None] & (labels[sample] >= 0)).sum()) - len(expected)
        rows = torch.tensor(expected + [(0.0, EMPTY, 0, 0, 0, 0)] * (8 - len(expected)))
        torch.testing.assert_close(found[1][sample], rows[:, 0])
        assert found[2][sample].tolist() == rows[:, 1].tolist()
        torch.testing.assert_close(found[0][sample], rows[:, 2:], atol=1e-4, rtol=0)
    assert merged > 20


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_speakers_and_slots_changes_no_bit(seed: int) -> None:
    boxes, scores, labels, there = crowd(seed)
    g = torch.Generator().manual_seed(seed)
    speakers, slots = torch.randperm(4, generator=g), torch.randperm(8, generator=g)
    found = fuse(boxes, scores, labels, there, 0.3)
    other = fuse(*(t[:, speakers][:, :, slots] for t in (boxes, scores, labels)), there[:, speakers], 0.3)
    for one, two in zip(found, other, strict=True):
        assert torch.equal(one, two)


def test_no_sample() -> None:
    boxes, scores, labels, there = (t[:0] for t in crowd(0))
    assert [t.shape for t in fuse(boxes, scores, labels, there, 0.5)] == [(0, 8, 4), (0, 8), (0, 8)]


def test_half_precision_is_fused_in_full() -> None:
    boxes, scores, labels, there = crowd(0)
    boxes, scores = boxes.half(), scores.half()
    found = fuse(boxes, scores, labels, there, 0.5)
    for one, two in zip(found, fuse(boxes.float(), scores.float(), labels, there, 0.5), strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)


def test_no_gradient_reaches_a_speaker() -> None:
    boxes, scores, labels, there = crowd(0)
    found = fuse(boxes.requires_grad_(), scores.requires_grad_(), labels, there, 0.5)
    assert not any(t.requires_grad for t in found)


# --- a camera that does not move ---------------------------------------------------------------------


def frames(*detections: list[tuple[list[float], float, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Frames of one camera: boxes, scores and classes, in two slots of each."""
    boxes, scores, labels = said(*detections)
    return boxes[0], scores[0], labels[0]  # each frame says it as a speaker would


def test_a_place_is_the_mean_of_what_frames_say_of_it() -> None:
    # IoU 10/12: both move to a width of (0.6 * 10 + 0.3 * 12) / 0.9, and from there see the same two.
    same = frames([([0.0, 0, 10, 10], 0.6, 0)], [([0.0, 0, 12, 10], 0.3, 0)], [])
    settled = settle(*same, 0.6)
    torch.testing.assert_close(settled[:2, 0], torch.tensor([[0, 0, 32 / 3, 10]] * 2))
    assert settled[2].eq(0).all()
    assert settled[:, 1].eq(0).all()  # slots that hold nothing


@pytest.mark.parametrize(
    "other",
    [
        ([0.0, 0, 20, 10], 0.6, 0),  # half of it is not more than half
        ([0.0, 0, 10, 10], 0.6, 1),  # another class
        ([0.0, 0, 11, 10], 0.0, 0),  # nothing
    ],
)
def test_what_is_not_alike_moves_nothing(other: tuple[list[float], float, int]) -> None:
    boxes, scores, labels = frames([([0.0, 0, 10, 10], 0.6, 0)], [other])
    assert torch.equal(settle(boxes, scores, labels, 0.5), boxes)


def test_two_boxes_of_a_frame_are_two_places() -> None:
    boxes, scores, labels = frames([([0.0, 0, 10, 10], 0.6, 0), ([0.0, 0, 12, 10], 0.3, 0)])
    assert torch.equal(settle(boxes, scores, labels, 0.5), boxes)


def test_a_place_is_looked_for_twice() -> None:
    # From 10 it sees 10 and 14 (IoU 10/14 > 0.6), not 18 (10/18); from their mean, 12, it sees 18 (12/18), too.
    three = frames(*([([0.0, 0, width, 10], 0.5, 0)] for width in (10.0, 14.0, 18.0)))
    settled = settle(*three, 0.6)
    torch.testing.assert_close(settled[0, 0], torch.tensor([0.0, 0, 14, 10]))


def test_many_boxes_at_once_or_few(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, labels, _ = (t[:, 0] if t.dim() > 2 else t for t in crowd(0, samples=40, speakers=1))
    boxes = boxes[:1] + torch.randint(0, 4, boxes.shape, generator=torch.Generator().manual_seed(1))
    whole = settle(boxes, scores, labels, 0.5)
    monkeypatch.setattr("mmkd.functional.detection.boxes.ROWS", 7)
    torch.testing.assert_close(settle(boxes, scores, labels, 0.5), whole)
    assert not torch.equal(whole, boxes)
    assert torch.equal(settle(boxes[:0], scores[:0], labels[:0], 0.5), boxes[:0])
