"""What the shipped files about cameras begin with, small: two days would do, but three have all splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import fuzz_configs


@pytest.fixture(scope="session")
def car_park(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which ``scripts/cameras.py`` might have run, but for the training."""
    folder = tmp_path_factory.mktemp("car_park")
    fuzz_configs.car_park(folder)
    return folder
