"""Doubt of a detector, by hand and in the mean of many frames."""

from __future__ import annotations

import torch

from mmkd.functional.detection.doubt import expected_errors
from mmkd.functional.random import generator


def test_errors_are_expected_of_detections_on_either_side_of_a_half() -> None:
    scores = torch.tensor([[0.9, 0.4, 0.0], [1.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(expected_errors(scores), torch.tensor([0.1 + 0.4, 0.5, 0.0]))


def test_scores_that_are_chances_expect_as_many_errors_as_there_are() -> None:
    """20,000 frames of three detections: the standard deviation of the mean is below 0.006."""
    stream = generator(0, "doubt")
    scores = torch.rand(20_000, 3, generator=stream, dtype=torch.float64)
    objects = torch.rand(20_000, 3, generator=stream, dtype=torch.float64) < scores
    wrong = (objects != (scores >= 0.5)).double().sum(-1)
    assert abs(float(expected_errors(scores).mean() - wrong.mean())) < 0.03
