"""A loss that is not finite ends a run, and says whose it is."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from mmkd.cohort import Cohort, Fleet
from mmkd.types import DivergedError
from tests.tiny import CLASSES, Eye, fit, fleets


def test_the_peer_that_diverged_is_named() -> None:
    class Mad(Eye):
        def private_loss(self, batch: Any) -> Tensor:
            return super().private_loss(batch) * float("nan")

    peers = {**fleets(eyes=2), "mad": Fleet(lambda n: Mad(n), 1)}
    with pytest.raises(DivergedError, match="'mad/0' is nan at its local step 0"):
        fit(Cohort(peers, CLASSES, vectorize="never"))
