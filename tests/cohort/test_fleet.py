"""Fleets that are no fleets are refused before a student is trained."""

from __future__ import annotations

import pytest

from mmkd.cohort import Cohort, Fleet
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye


@pytest.mark.parametrize(
    ("peers", "message"),
    [
        ({}, "at least one fleet"),
        ({"a": Fleet(Eye, 2, ["x"])}, "2 peers but 1 ids"),
        ({"a": Fleet(Eye, 1, ["x"]), "b": Fleet(Eye, 1, ["x"])}, "share the id x"),
        ({"a": Fleet(lambda n: Eye(n + 1), 1)}, "tells 4 classes apart"),
    ],
)
def test_bad_fleets_are_refused(peers: dict[str, Fleet], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cohort(peers, CLASSES)
