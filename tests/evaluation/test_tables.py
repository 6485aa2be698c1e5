"""Answers as rows of a table."""

from __future__ import annotations

import torch

from mmkd.evaluation.tables import header, rows
from mmkd.types import NO_LABEL, Classes, Detections, Tags, Values


def test_a_row_a_sample() -> None:
    assert header(Classes, 2) == ["peer", "sample", "label", "prediction", "probability_0", "probability_1"]
    answers = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    found = list(rows(Classes, "a/0", torch.tensor([7, 9]), torch.tensor([1, NO_LABEL]), answers))
    assert found == [("a/0", 7, 1, 1, 0.25, 0.75), ("a/0", 9, "", 0, 1.0, 0.0)]


def test_a_row_a_detection_and_none_for_an_empty_slot() -> None:
    assert header(Detections, 6) == ["peer", "sample", "x1", "y1", "x2", "y2", "score", "class"]
    slots = torch.tensor([[[1.0, 2, 3, 4, 0.5, 2], [0, 0, 0, 0, 0, -1]], [[0, 0, 0, 0, 0, -1]] * 2])
    labels = torch.zeros(2, 1, 5)
    assert list(rows(Detections, "a/0", torch.tensor([7, 9]), labels, slots)) == [
        ("a/0", 7, 1, 2, 3, 4, 0.5, 2)
    ]


def test_labels_of_any_kind() -> None:
    """Of soft labels the likeliest class; tags and values stand beside what is said of them."""
    ids, said = torch.tensor([7]), torch.tensor([[0.25, 0.75]])
    assert list(rows(Classes, "a/0", ids, torch.tensor([[0.5, 0.5]]), said)) == [("a/0", 7, 0, 1, 0.25, 0.75)]
    assert header(Tags, 2) == ["peer", "sample", "label_0", "label_1", "probability_0", "probability_1"]
    assert list(rows(Tags, "a/0", ids, torch.tensor([[1, 0]]), said)) == [("a/0", 7, 1, 0, 0.25, 0.75)]
    assert header(Values, 1) == ["peer", "sample", "label_0", "value_0"]
    assert list(rows(Values, "a/0", ids, torch.tensor([2.5]), said[:, :1])) == [("a/0", 7, 2.5, 0.25)]
