"""Errors and R^2 of tiny tables, computed by hand."""

from __future__ import annotations

import pytest
import torch

from mmkd.evaluation.regression import Regression
from mmkd.types import ConfigError, DivergedError, Values


def test_errors_of_a_table() -> None:
    """Values 1, 3 and 5, of mean 3, lie 4 + 0 + 4 = 8 apart.

    ``a`` says 1, 4 and 5: squares 0 + 1 + 0, so R^2 is 1 - 1 / 8. ``b`` says the mean, which explains nothing,
    and ``c`` is 3 off everywhere: 1 - 27 / 8.
    """
    said = torch.tensor([[1.0, 4, 5], [3, 3, 3], [4, 6, 8]])[..., None]
    y, scores = torch.tensor([1.0, 3.0, 5.0]), Regression()
    for cut in (slice(0, 1), slice(1, 3)):  # batches add up
        scores.count(["a", "b", "c"], Values(said[:, cut]), y[cut], None)
    assert scores.metrics("val") == {
        "a": {"r2": 1 - 1 / 8, "mse": 1 / 3, "mae": 1 / 3},
        "b": {"r2": 0.0, "mse": 8 / 3, "mae": 4 / 3},
        "c": {"r2": 1 - 27 / 8, "mse": 9.0, "mae": 3.0},
    }
    assert scores.metrics("val") == {}


def test_unknown_values_do_not_count_and_a_constant_has_nothing_to_explain() -> None:
    """Of the first value 1 and 3 are known and 2 and 2 said, of the second a constant, 0.5 off."""
    y = torch.tensor([[1.0, 7.0], [torch.nan, 7.0], [3.0, torch.nan]])
    said = torch.tensor([[2.0, 7.5], [9.0, 6.5], [2.0, 99.0]])[None]
    scores = Regression()
    scores.count(["a"], Values(said), y, None)
    scores.count(["nothing is known"], Values(said), torch.full((3, 2), torch.nan), None)
    assert scores.metrics("val") == {
        "a": {"r2": 0.0, "mse": (1 + 1 + 2 * 0.25) / 4, "mae": (1 + 1 + 2 * 0.5) / 4}
    }


def test_what_has_no_meaning() -> None:
    scores = Regression()
    scores.count(["a"], Values(torch.zeros(1, 2, 1)), torch.ones(2), None)
    with pytest.raises(ConfigError, match="the known test values of 'a' are all equal"):
        scores.metrics("test")
    with pytest.raises(ConfigError, match=r"labels have the shape \[2\], and students give 1 values"):
        Regression().count(["a"], Values(torch.zeros(1, 2, 1)), torch.ones(2, 2), None)
    with pytest.raises(DivergedError, match="peer 'a' has diverged: what it predicts is not finite"):
        Regression().count(["a"], Values(torch.full((1, 2, 1), torch.inf)), torch.ones(2), None)
