"""A table of predictions that is written while they are made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from mmkd.evaluation.tables import header, rows
from mmkd.files import replacing
from mmkd.tables import write_rows
from mmkd.types import Evaluation, PeerName, Predictions


class PredictionTable:
    """A CSV file that appears whole once it is closed; until then rows are on the disk and not in memory.

    Args:
        path: of the file.
        gives: what the students predict.
    """

    def __init__(self, path: Path, gives: type[Predictions]) -> None:
        self.path, self._gives = path, gives
        self._open = ExitStack()
        part = self._open.enter_context(replacing(path))
        self._file = self._open.enter_context(part.open("w", newline=""))
        self._begun = False

    def add(self, said: Mapping[PeerName, Tensor], batch: Evaluation) -> None:
        """Write what peers say of a batch (see ``mmkd.evaluation.tables.rows``)."""
        assert batch.ids is not None
        for peer, answers in said.items():
            if not self._begun:
                write_rows(self._file, [header(self._gives, answers.shape[-1])])
                self._begun = True
            write_rows(self._file, rows(self._gives, peer, batch.ids, batch.y, answers))

    def close(self, error: BaseException | None = None) -> None:
        """Put the file in its place, or leave nothing behind after an error."""
        self._open.__exit__(None if error is None else type(error), error, None)
        self._open = ExitStack()
