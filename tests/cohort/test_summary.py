"""Before a fit a cohort prints its fleets, where Lightning would list modules without operations."""

from __future__ import annotations

import pytest

from mmkd.cohort import Cohort
from tests.tiny import CLASSES, fit, fleets


def test_a_line_a_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    """Parameters are those of one peer: 8 x 16 + 16 of a layer, 2 x 16 of a norm, 16 x 3 + 3 of the head."""
    for shown in (True, False):
        cohort = Cohort(fleets(), CLASSES, vectorize="always")
        fit(cohort, max_epochs=1, enable_model_summary=shown)
        printed = capsys.readouterr().out
        assert "FLOPs" not in printed
        if not shown:
            assert "Fleet" not in printed
            continue
        assert "Fleet        Peers  Reads  Student  Parameters  Trains" in printed
        assert "cameras          3  image  Eye             227  side by side" in printed
        assert "microphones      2  audio  Ear             171  side by side" in printed
