"""What shipped files begin with, small. Of cameras two days would do, but three have all splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import fuzz_configs
from tests.datamodules.formats import write_emoji, write_fashion
from tests.datamodules.publishers import (
    write_ag_news,
    write_cifar10,
    write_cifar100,
    write_crema_d,
    write_esc50,
    write_mm_imdb,
    write_speech_commands,
    write_uci_har,
)


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
    write_cifar10(folder / "cifar")
    write_cifar100(folder / "cifar")
    write_speech_commands(folder / "speech_commands")
    write_esc50(folder / "esc50")
    write_crema_d(folder / "crema_d")
    write_ag_news(folder / "ag_news")
    write_uci_har(folder / "uci_har")
    write_mm_imdb(folder / "mm_imdb", train=60)
    return folder
