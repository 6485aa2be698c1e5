"""What imports leave behind need not be looked through again while a cohort trains."""

from __future__ import annotations

import gc
from typing import Any

from lightning.pytorch import Callback


class FrozenGarbage(Callback):
    """Keeps Python's garbage collector from the million objects of imports while a fit lasts.

    Whoever has frozen objects before is left alone.
    """

    def __init__(self) -> None:
        self._frozen = False

    def on_fit_start(self, *args: Any) -> None:
        """Freeze, but collect the young first: all of them would take a quarter of a second."""
        if gc.get_freeze_count() == 0:
            gc.collect(1)
            gc.freeze()
            self._frozen = True

    def on_fit_end(self, *args: Any) -> None:
        """Let the collector see everything again."""
        if self._frozen:
            gc.unfreeze()
            self._frozen = False

    def on_exception(self, *args: Any) -> None:
        """A fit that was cut off has ended, too."""
        self.on_fit_end()
