"""The scores of a cohort, which follow from what its students predict."""

from __future__ import annotations

from collections.abc import Mapping

from torchmetrics import Metric

from mmkd.evaluation.accuracy import Head
from mmkd.evaluation.own import WithOwn
from mmkd.evaluation.regression import Regression
from mmkd.evaluation.scores import Accuracies, Precisions, Scores
from mmkd.evaluation.tagging import Tagging
from mmkd.types import Classes, Detections, Predictions, Tags


def scores_of(
    kind: type[Predictions], num_classes: int, head: Head, threshold: float, own: Mapping[str, Metric] | None
) -> Scores:
    """The scores of students that give predictions of a kind.

    Args:
        kind: of the predictions (``Student.gives``).
        num_classes: of the data.
        head: of classifiers: the head whose predictions are a peer's.
        threshold: of detectors: score from which on a detection counts for precision and recall.
        own: metrics of one's own, by name; none of them costs anything if there are none.
    """
    scores: Scores
    if kind is Classes:
        scores = Accuracies(num_classes, head)
    elif kind is Detections:
        scores = Precisions(num_classes, threshold)
    else:
        scores = Tagging() if kind is Tags else Regression()
    return WithOwn(scores, own) if own else scores
