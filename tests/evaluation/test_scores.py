"""Every kind of score says by which of its metrics peers are compared, and every peer has that."""

from __future__ import annotations

import pytest
import torch

from mmkd.evaluation.regression import Regression
from mmkd.evaluation.scores import Accuracies, Precisions, Scores, classes_of
from mmkd.evaluation.tagging import Tagging
from mmkd.functional.detection.boxes import EMPTY
from mmkd.tradeoff.metric import METRICS
from mmkd.types import NO_LABEL, Classes, ConfigError, Detections, DivergedError

CLASSES = 3
NAMES = ["a", "b"]


def classified() -> Accuracies:
    """``b`` is right about both samples, and ``a`` about the first; each owns both classes alike."""
    scores = Accuracies(CLASSES, "main")
    scores.frequencies = dict.fromkeys(NAMES, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    said = torch.eye(CLASSES)[torch.tensor([[0, 2], [0, 1]])]
    none = said.new_zeros(2, 0, 2, CLASSES)
    scores.count(NAMES, Classes(said, none, said), torch.tensor([0, 1]), None)
    return scores


def detected(objects: int = 1) -> Precisions:
    """``b`` finds the object and ``a`` finds nothing."""
    scores = Precisions(1, 0.5)
    box = torch.tensor([[[[0.0, 0, 10, 10, 0.9, EMPTY]]], [[[0.0, 0, 10, 10, 0.9, 0]]]])
    y = torch.tensor([[[0.0, 0, 10, 10, 0.0 if objects else EMPTY]]])
    scores.count(NAMES, Detections(box, box), y, None)
    return scores


@pytest.mark.parametrize(
    ("scores", "main"),
    [(classified(), {"a": 0.5, "b": 1.0}), (detected(), {"a": 0.0, "b": 1.0})],
    ids=["classifiers", "detectors"],
)
def test_every_peer_has_the_metric_by_which_it_is_compared(scores: Scores, main: dict[str, float]) -> None:
    found = scores.metrics("test")
    assert {name: metrics[scores.main] for name, metrics in found.items()} == main
    for metrics in found.values():
        assert {scores.main, *scores.beside} <= set(metrics)


def test_logits_that_are_not_finite_have_no_accuracy() -> None:
    """The likeliest of three classes that are nan is the first: an accuracy of a third, of nothing.

    A class that is ruled out is none of them.
    """
    for value, wrong in ((torch.nan, "b"), (torch.inf, "b"), (-torch.inf, None)):
        said = torch.eye(CLASSES).repeat(2, 1, 1)
        said[1, 0, 2] = value
        predictions = Classes(said, said.new_zeros(2, 0, 3, CLASSES), said)
        if wrong is None:
            Accuracies(CLASSES, "main").count(NAMES, predictions, torch.tensor([0, 1, 2]), None)
            continue
        with pytest.raises(
            DivergedError, match=f"peer '{wrong}' has diverged: what it predicts is not finite"
        ):
            Accuracies(CLASSES, "main").count(NAMES, predictions, torch.tensor([0, 1, 2]), None)


def test_samples_without_a_label_are_not_scored() -> None:
    """Of a peer all of whose samples are such there is no metric."""
    said = torch.eye(CLASSES).repeat(2, 1, 1)
    scores, predictions = classified(), Classes(said, said.new_zeros(2, 0, 3, CLASSES), said)
    scores.count(NAMES, predictions, torch.full((3,), NO_LABEL), None)
    assert scores.metrics("val") == classified().metrics("val")
    scores.count(NAMES, predictions, torch.full((3,), NO_LABEL), None)
    assert scores.metrics("val") == {}


@pytest.mark.parametrize(
    "scores", [Accuracies(CLASSES, "main"), Precisions(1, 0.5), Tagging(), Regression()], ids=lambda s: s.main
)
def test_reports_have_words_for_it(scores: Scores) -> None:
    metric = METRICS[scores.main]
    assert set(metric.beside.values()) <= set(scores.beside)
    assert metric.on("test") != metric.on("validation")


def test_no_accuracy_is_an_average_precision() -> None:
    assert not any("accuracy" in metric for row in detected().metrics("val").values() for metric in row)


def test_a_peer_without_an_object_has_no_average_precision() -> None:
    with pytest.raises(ConfigError, match="the val frames of 'a' hold no object"):
        detected(objects=0).metrics("val")


def test_labels_as_classes() -> None:
    """Whole numbers in any type; of soft labels the likeliest class, where there is a label."""
    soft = torch.tensor([[0.2, 0.5, 0.3], [torch.nan] * 3, [1.0, 0.0, 0.0]])
    assert classes_of(torch.tensor([0.0, 2.0]), CLASSES).tolist() == [0, 2]
    assert classes_of(torch.tensor([1, NO_LABEL]), CLASSES).tolist() == [1, NO_LABEL]
    assert classes_of(soft, CLASSES).tolist() == [1, NO_LABEL, 0]


@pytest.mark.parametrize(
    "y", [torch.rand(4) + 0.1, torch.ones(4, CLASSES), torch.ones(4, 2), torch.tensor([[2.0, -1.0, 0.0]])]
)
def test_what_is_no_class_has_no_accuracy(y: torch.Tensor) -> None:
    """Fractions, several tags, another width, values."""
    with pytest.raises(ConfigError, match="are no classes, so accuracy has no meaning") as error:
        classes_of(y, CLASSES)
    assert "\n" not in str(error.value)


def test_without_a_label_there_is_no_accuracy_and_no_frequency() -> None:
    """A sample of two has a label, and of the second peer none; a peer without training labels weighs alike."""
    scores = Accuracies(CLASSES, "main")
    for name in NAMES:
        scores.observe(name, torch.zeros(CLASSES, dtype=torch.long))
    said = torch.eye(CLASSES)[torch.tensor([[0, 2]])]
    none = said.new_zeros(1, 0, 2, CLASSES)
    scores.count(["a"], Classes(said, none, said), torch.tensor([0, NO_LABEL]), None)
    scores.count(["b"], Classes(said, none, said), torch.tensor([NO_LABEL, NO_LABEL]), None)
    assert scores.frequencies["a"].tolist() == [1 / 3] * 3
    assert scores.metrics("val") == {"a": {"shared_accuracy": 1.0, "private_accuracy": 1.0}}
