"""Metrics of one's own: any metric of torchmetrics, counted for every peer beside a cohort's scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from torch import Tensor
from torchmetrics import Metric

from mmkd.evaluation.scores import Metrics, Pair, Scores
from mmkd.types import ConfigError, PeerName

_T = TypeVar("_T")


class WithOwn(Scores):
    """Scores, and beside them metrics of one's own: each peer has a copy of each, which every batch updates.

    Args:
        scores: those of the cohort.
        own: metrics by the names under which they are logged.

    Raises:
        ConfigError: a metric has the name of a score.
    """

    def __init__(self, scores: Scores, own: Mapping[str, Metric]) -> None:
        if taken := sorted(set(own) & {scores.main, *scores.beside}):
            raise ConfigError(f"model.metrics names one '{taken[0]}', which a score has; call it otherwise")
        self._scores, self._own = scores, dict(own)
        self.main, self.beside, self.least, self.best = scores.main, scores.beside, scores.least, scores.best
        self.labels = scores.labels
        self._counting: dict[PeerName, dict[str, Metric]] = {}

    def observe(self, name: PeerName, counts: Tensor) -> None:
        """Take the counts of a peer's training labels."""
        self._scores.observe(name, counts)

    def count(self, names: Sequence[PeerName], predictions: Any, y: Tensor, priors: Tensor | None) -> None:
        """Count the predictions of peers on a batch.

        Raises:
            ConfigError: a metric cannot read them.
        """
        self._scores.count(names, predictions, y, priors)
        for peer, (said, true) in self._scores.pairs(names, predictions, y).items():
            if peer not in self._counting:
                self._counting[peer] = {name: _copy(metric, y) for name, metric in self._own.items()}
            for name, metric in self._counting[peer].items():
                _tried(name, peer, partial(metric.update, said, true))

    def answers(self, names: Sequence[PeerName], predictions: Any) -> dict[PeerName, Tensor]:
        """Predictions of each peer on a batch as a user gets them."""
        return self._scores.answers(names, predictions)

    def pairs(self, names: Sequence[PeerName], predictions: Any, y: Tensor) -> dict[PeerName, Pair]:
        """Predictions and labels as torchmetrics compares them."""
        return self._scores.pairs(names, predictions, y)

    def metrics(self, split: str) -> Metrics:
        """Scores and metrics of every peer that was shown a labelled sample; the counts begin anew.

        Raises:
            ConfigError: a metric is not one number, or has the name of a score.
        """
        found = self._scores.metrics(split)
        for peer in found.keys() & self._counting.keys():
            for name, metric in self._counting[peer].items():
                value = _tried(name, peer, metric.compute)
                if not isinstance(value, Tensor) or value.numel() != 1:
                    shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise ConfigError(
                        f"model.metrics: '{name}' gives {shape} and not one number; average it, or choose"
                        " another"
                    )
                if name in found[peer]:
                    raise ConfigError(
                        f"model.metrics names one '{name}', which a score has; call it otherwise"
                    )
                found[peer][name] = float(value)
        self._counting = {}
        return found


def _copy(metric: Metric, y: Tensor) -> Metric:
    copy = metric.clone().to(y.device)
    copy.sync_on_compute = False  # a process has metrics of its own peers alone
    return copy


def _tried(name: str, peer: PeerName, do: Callable[[], _T]) -> _T:
    """What a metric does, or one line that names it."""
    try:
        return do()
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model.metrics: '{name}' cannot count what '{peer}' predicts: {reason}") from error
