"""Some mutants of messages; ``scripts/test --long`` tries a million (``scripts/fuzz_messages.py``)."""

from __future__ import annotations

import logging
from typing import get_args

import pytest

from mmkd.coordination.arrivals import Reason
from mmkd.coordination.delivery import LOG
from scripts.fuzz_messages import attempt


def test_no_mutant_is_taken_for_what_it_is_not(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is raised, every way to be wrong occurs, and what changes nothing is taken."""
    with caplog.at_level(logging.ERROR, LOG.name):
        found = attempt(1500, 1)
    assert not [what for what in found if what.startswith("FAILED")]
    assert {what.removeprefix("refused: ") for what in found if "refused" in what} == set(get_args(Reason))
    assert found["equal"] > 0
    assert found["harmless change"] > 0
