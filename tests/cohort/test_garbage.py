"""What Python's garbage collector sees is as it was, however a fit ends."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from lightning.pytorch import Callback

from mmkd.cohort import Cohort
from tests.tiny import CLASSES, fit, fleets


class Watch(Callback):
    """Counts what is frozen after a block, and may end the run there."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.error, self.frozen = error, 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.frozen = gc.get_freeze_count()
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("error", "leaves"), [(None, None), (RuntimeError, RuntimeError), (KeyboardInterrupt, SystemExit)]
)
def test_all_is_seen_again_after_a_fit(error: Any, leaves: Any) -> None:
    watch, cohort = Watch(error), Cohort(fleets(2, 0 + 1), CLASSES)
    assert gc.get_freeze_count() == 0
    if leaves is None:
        fit(cohort, extra=[watch], max_epochs=1)
    else:  # Lightning turns an interrupt into an orderly exit
        with pytest.raises(leaves):
            fit(cohort, extra=[watch], max_epochs=1)
    assert watch.frozen > 0
    assert gc.get_freeze_count() == 0


def test_what_somebody_else_has_frozen_stays_frozen() -> None:
    watch = Watch()
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        fit(Cohort(fleets(2, 1), CLASSES), extra=[watch], max_epochs=1)
        assert gc.get_freeze_count() == pytest.approx(before, rel=0.01)  # some of it is freed meanwhile
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
