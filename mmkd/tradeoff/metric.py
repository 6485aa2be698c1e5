"""The metrics by which peers are compared, with their names and phrases in a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mmkd.evaluation.regression import Regression
from mmkd.evaluation.scores import Accuracies, Precisions
from mmkd.evaluation.tagging import Tagging


class Metric(NamedTuple):
    """The metric by which the peers and methods of a study are compared."""

    name: str  # among the metrics of a peer
    head: str  # heading of its column in tables
    phrase: str  # for axes and sentences; {split} is test or validation
    meaning: str  # what the score of a run is, in words
    owned: str  # what a peer's labels count: samples or objects; empty, if they cannot be counted
    beside: Mapping[str, str]  # further columns of the summary, and their metrics

    def on(self, split: str) -> str:
        """The phrase for scores on test or validation samples."""
        return self.phrase.format(split=split)


SHARED_ACCURACY = Metric(
    name=Accuracies.main,
    head="Shared",
    phrase="shared {split} accuracy",
    meaning="test accuracy, averaged over peers, as if all classes were equally frequent",
    owned="Private training samples",
    beside={"private": "private_accuracy"},
)
"""The metric of classifiers: accuracy under a uniform label distribution."""
AVERAGE_PRECISION = Metric(
    name=Precisions.main,
    head="mAP50",
    phrase="{split} mAP50",
    meaning="average precision at an IoU of 0.5 in test frames, averaged over peers",
    owned="Objects in private training frames",
    beside={},
)
"""The metric of detectors: average precision at an IoU of 0.5."""
F1 = Metric(
    name=Tagging.main,
    head="F1",
    phrase="{split} F1",
    meaning="F1 on test samples, the mean over tags, averaged over peers",
    owned="Private training samples with each tag",
    beside={},
)
"""The metric of taggers: the mean over tags of F1."""
EXPLAINED = Metric(
    name=Regression.main,
    head="R2",
    phrase="{split} R\u00b2",
    meaning="share of the variance of test values that predictions explain (R\u00b2), averaged over peers",
    owned="",
    beside={name: name for name in Regression.beside},
)
"""The metric of regressors: R^2, which is below 0 for a peer that is worse than the mean of the samples."""
METRICS = {metric.name: metric for metric in (SHARED_ACCURACY, AVERAGE_PRECISION, F1, EXPLAINED)}
"""Metrics by which methods are compared, by their names in results."""
