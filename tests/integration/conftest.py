"""What shipped files begin with, small. Of cameras two days would do, but three have all splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import fuzz_configs
from tests.datamodules.formats import write_emoji, write_fashion


@pytest.fixture(scope="session")
def car_park(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which ``scripts/cameras.py`` might have run, but for the training."""
    folder = tmp_path_factory.mktemp("car_park")
    fuzz_configs.car_park(folder)
    return folder


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few samples of every published set, in its format."""
    folder = tmp_path_factory.mktemp("sets")
    write_fashion(folder / "fashion_mnist")
    write_emoji(folder / "emoji")
    return folder
