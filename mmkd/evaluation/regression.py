"""Scores of regressors: R^2, the mean squared and the mean absolute error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.evaluation.scores import Metrics, Pair, Scores, refuse_diverged, shaped
from mmkd.students.labels import AsGiven, Labels
from mmkd.types import ConfigError, PeerName, Values


class Regression(Scores):
    """Scores of regressors, from sums over samples.

    ``r2`` is 1 - sum (value - y)^2 / sum (y - mean y)^2, the mean over values that differ between samples:
    1 is perfect, 0 what the mean of the samples would reach, and there is no least. ``mse`` and ``mae`` are
    the mean squared and absolute error over all known values.
    """

    main: str = "r2"
    beside: tuple[str, ...] = ("mse", "mae")
    least: float = -math.inf

    def __init__(self) -> None:
        self.labels: Labels = AsGiven()
        self.best: dict[PeerName, int] = {}
        self._true: dict[tuple[PeerName, ...], list[Tensor]] = {}
        self._wrong: dict[tuple[PeerName, ...], Tensor] = {}

    def count(self, names: Sequence[PeerName], predictions: Values, y: Tensor, priors: Tensor | None) -> None:
        """Add up the errors of peers on a batch."""
        values, key = predictions.values.detach().cpu().double(), tuple(names)
        refuse_diverged(names, values)
        true = shaped(y, values[0], "values").cpu().double()
        wrong = (values - true).masked_fill(true.isnan(), 0.0)
        sums = torch.stack([wrong.square().sum(1), wrong.abs().sum(1)])  # [2, peers, values]
        self._wrong[key] = self._wrong[key] + sums if key in self._wrong else sums
        self._true.setdefault(key, []).append(true)

    def answers(self, names: Sequence[PeerName], predictions: Values) -> dict[PeerName, Tensor]:
        """Values ``[batch, values]``."""
        return dict(zip(names, predictions.values, strict=True))

    def pairs(self, names: Sequence[PeerName], predictions: Values, y: Tensor) -> dict[PeerName, Pair]:
        """Predicted and true values of samples of which all are known; ``[batch]`` if there is one each."""
        true = shaped(y, predictions.values[0], "values")
        known = ~true.isnan().any(1)
        said = self.answers(names, predictions)
        return {name: (_flat(v[known]), _flat(true[known])) for name, v in said.items()}

    def metrics(self, split: str) -> Metrics:
        """Metrics of every peer that was shown a value.

        Raises:
            ConfigError: the known values of a peer's samples are all equal.
        """
        found: Metrics = {}
        for names, parts in self._true.items():
            true = torch.cat(parts)
            known, (squares, sizes) = ~true.isnan(), self._wrong[names]
            if not known.any():
                continue
            spread = (true - true.nanmean(0)).masked_fill(~known, 0.0).square().sum(0)
            differs = spread > 0
            if not differs.any():
                raise ConfigError(
                    f"the known {split} values of '{names[0]}' are all equal, so R^2 has no meaning; give it"
                    " other samples"
                )
            r2 = 1 - (squares[:, differs] / spread[differs]).mean(1)
            mse, mae = (t.sum(1) / known.sum() for t in (squares, sizes))
            rows = torch.stack([r2, mse, mae], 1).tolist()
            found |= {
                n: dict(zip((self.main, *self.beside), row, strict=True))
                for n, row in zip(names, rows, strict=True)
            }
        self._true, self._wrong = {}, {}
        return found


def _flat(values: Tensor) -> Tensor:
    """``[batch]``, if there is one value a sample."""
    return (values[:, 0] if values.shape[1] == 1 else values).float()
