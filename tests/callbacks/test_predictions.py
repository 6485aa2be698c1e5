"""A table of predictions appears whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import torch

from mmkd.callbacks.predictions import PredictionTable
from mmkd.types import Classes, Evaluation


def test_what_is_not_finished_is_not_there(tmp_path: Path) -> None:
    batch = Evaluation(["a"], torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([4, 5]))
    path = tmp_path / "predictions.csv"
    for error in (None, KeyboardInterrupt()):
        table = PredictionTable(path, Classes)
        table.add({"a": torch.tensor([[1.0, 0.0], [0.5, 0.5]])}, batch)
        assert path.exists() == (error is not None)  # the first one's, which the second does not replace
        table.close(error)
        assert path.read_text().splitlines()[1:] == ["a,4,0,0,1.0,0.0", "a,5,1,0,0.5,0.5"]
        table.close()
    assert list(tmp_path.iterdir()) == [path]
