"""F1 and area under the ROC curve of tiny tables, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_f1_score

from mmkd.evaluation.tagging import Tagging, auroc, f1
from mmkd.types import NO_LABEL, DivergedError, Tags

YES = torch.tensor([True, True, False, False])


def test_f1_of_a_table() -> None:
    """Of two that fit, one is found, beside one false alarm: 2 / (2 + 1 + 1). Who says nothing has 0."""
    fits = torch.tensor([[True, False, True, False], [False] * 4, [True, True, False, False]])
    assert f1(fits, YES).tolist() == [0.5, 0.0, 1.0]
    assert f1(fits, torch.zeros(4, dtype=torch.bool)).isnan().tolist() == [False, True, False]


def test_area_counts_pairs() -> None:
    """Of four pairs of one that fits and one that does not, 3 are in order, or 2 and one tie, or all tie."""
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [3.0, 1.0, 3.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    # Second row: 3 against 3 ties, 3 against 1 is right, 1 against 3 is wrong, 1 against 1 ties.
    assert auroc(logits, YES).tolist() == [0.75, 0.5, 0.5]
    assert bool(auroc(logits, torch.ones(4, dtype=torch.bool)).isnan().all())


def test_unknown_labels_do_not_count_and_batches_add_up() -> None:
    """Two tags, of whose five samples each lacks one label; the library agrees on what is known."""
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 2, generator=stream)
    y = torch.tensor([[1, 0], [0, NO_LABEL], [1, 1], [NO_LABEL, 1], [0, 0]])
    scores = Tagging()
    for cut in (slice(0, 2), slice(2, 5)):
        scores.count(["a", "b", "c"], Tags(logits[:, cut]), y[cut], None)
    found = scores.metrics("val")
    for peer, z in zip("abc", logits, strict=True):
        known = [y[:, tag] != NO_LABEL for tag in range(2)]
        one = [binary_f1_score(z[k, t].sigmoid(), y[k, t]) for t, k in enumerate(known)]
        two = [binary_auroc(z[k, t].sigmoid(), y[k, t]) for t, k in enumerate(known)]
        assert found[peer] == pytest.approx({"f1": float(sum(one)) / 2, "auroc": float(sum(two)) / 2})
    assert scores.metrics("val") == {}


def test_what_is_undefined_is_left_out() -> None:
    """A tag that is neither there nor predicted has no F1; where nothing is, saying nothing is right."""
    y, none = torch.tensor([[1, 0], [1, 0]]), torch.full((2, 2), NO_LABEL)
    right, silent = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]), torch.full((1, 2, 2), -1.0)
    scores = Tagging()
    scores.count(["a"], Tags(right), y, None)
    scores.count(["b"], Tags(silent), torch.zeros(2, 2), None)
    scores.count(["c"], Tags(silent), none, None)
    assert scores.metrics("val") == {"a": {"f1": 1.0}, "b": {"f1": 1.0}}


def test_no_number_is_no_prediction() -> None:
    logits = torch.zeros(2, 1, 2)
    logits[1, 0, 1] = torch.nan
    with pytest.raises(DivergedError, match="peer 'b' has diverged: what it predicts is not finite"):
        Tagging().count(["a", "b"], Tags(logits), torch.ones(1, 2), None)
