"""Metrics of one's own are what torchmetrics gives for a peer's predictions alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchmetrics import AUROC, F1Score, Metric, R2Score
from torchmetrics.detection import IntersectionOverUnion

from mmkd.evaluation.kinds import scores_of
from mmkd.functional.detection.boxes import EMPTY
from mmkd.types import NO_LABEL, Classes, ConfigError, Detections, Predictions, Tags, Values

NAMES = ["a", "b"]
STREAM = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 6, 3, generator=STREAM)
VALUES = torch.randn(6, 3, generator=STREAM)


def classes(z: torch.Tensor) -> Classes:
    return Classes(z, z.new_empty(2, 0, z.shape[1], 3), z)


CASES: list[tuple[type[Predictions], Any, torch.Tensor, Metric, Any]] = [
    # kind, predictions of both, labels, metric, and what it is updated with for one peer
    (Classes, classes, torch.tensor([0, 1, 2, 0, NO_LABEL, 1]), AUROC(task="multiclass", num_classes=3),
     lambda z, y: (z[y >= 0].softmax(-1), y[y >= 0])),
    (Classes, classes, VALUES.softmax(-1), F1Score(task="multiclass", num_classes=3, average="macro"),
     lambda z, y: (z.softmax(-1), y.argmax(1))),
    (Tags, Tags, (VALUES > 0).long(), AUROC(task="multilabel", num_labels=3),
     lambda z, y: (z.sigmoid(), y)),
    (Values, Values, VALUES, R2Score(), lambda z, y: (z, y)),
    (Values, lambda z: Values(z[..., :1]), VALUES[:, 0], R2Score(), lambda z, y: (z[:, 0], y)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "predicted", "y", "metric", "alone"), CASES)
def test_it_is_the_metric_of_a_peer_alone(
    kind: type[Predictions], predicted: Any, y: torch.Tensor, metric: Metric, alone: Any
) -> None:
    scores = scores_of(kind, 3, "main", 0.5, {"mine": metric})
    for name in NAMES:
        scores.observe(name, torch.ones(3))
    for cut in (slice(0, 4), slice(4, 6)):
        scores.count(NAMES, predicted(LOGITS[:, cut]), y[cut], None)
    found = scores.metrics("val")
    for name, z in zip(NAMES, LOGITS, strict=True):
        own = metric.clone()
        own.update(*alone(z, y))
        assert found[name]["mine"] == pytest.approx(float(own.compute()))
        assert scores.main in found[name]
    assert found["a"]["mine"] != found["b"]["mine"]
    assert scores.metrics("val") == {}  # all is forgotten


def test_boxes() -> None:
    """A box of 10 x 10 against the same moved by 5: 50 common of 150; an empty slot is no box."""
    box = torch.tensor([[0.0, 0, 10, 10, 0.9, 0], [0, 0, 0, 0, 0, EMPTY]])
    y = torch.tensor([[[5.0, 0, 15, 10, 0], [0, 0, 0, 0, EMPTY]]])
    scores = scores_of(Detections, 1, "main", 0.5, {"ious": Ious()})
    scores.count(["a"], Detections(box[None, None], box[None, None, :, :0]), y, None)
    assert scores.metrics("val")["a"]["ious"] == pytest.approx(1 / 3)


class Ious(IntersectionOverUnion):
    def compute(self) -> Any:
        return super().compute()["iou"]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"shared_accuracy": F1Score(task="binary")}, "names one 'shared_accuracy', which a score has"),
        (
            {"mine": F1Score(task="multiclass", num_classes=3, average=None)},
            r"'mine' gives \[3\] and not one",
        ),
        ({"mine": F1Score(task="multiclass", num_classes=2)}, "'mine' cannot count what 'a' predicts"),
    ],
)
def test_what_has_no_meaning(own: dict[str, Metric], message: str) -> None:
    def attempt() -> None:
        scores = scores_of(Classes, 3, "main", 0.5, own)
        for name in NAMES:
            scores.observe(name, torch.ones(3))
        scores.count(NAMES, classes(LOGITS), torch.tensor([0, 1, 2, 0, 1, 2]), None)
        scores.metrics("val")

    with pytest.raises(ConfigError, match=message) as error:
        attempt()
    assert "\n" not in str(error.value)


def test_who_asks_for_none_pays_for_none() -> None:
    """No object a peer, nor a call: the scores are those without metrics of one's own."""
    assert type(scores_of(Classes, 3, "main", 0.5, None)) is type(scores_of(Classes, 3, "main", 0.5, {}))
    assert "own" not in type(scores_of(Values, 3, "main", 0.5, None)).__module__
