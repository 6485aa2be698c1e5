"""A car park that is drawn once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.parking import car_park, render
from datamodules.parking.days import CarPark
from tests.datamodules.parking.small import DRAWN


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CarPark]:
    root = tmp_path_factory.mktemp("scenes") / "park"
    park = car_park(**DRAWN)
    render(root, park)
    return root, park
