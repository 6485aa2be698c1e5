"""One process a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd.lock import HOLDER, LOCK, holding
from mmkd.types import ConfigError

HOLD = """
import sys, time
from pathlib import Path
from mmkd.lock import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_until_its_holder_ends_or_dies(tmp_path: Path) -> None:
    """The second is refused with the name of the first; a killed one keeps nothing, and nothing is left."""
    folder = tmp_path / "new" / "run"
    arguments = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said = rf"run is in use by process {other.pid} on .* since .* \(-c .*run\); wait until it ends"
        with pytest.raises(ConfigError, match=said), holding(folder):
            raise AssertionError
        other.send_signal(signal.SIGKILL)
    with holding(folder):
        said = rf"in use by process {os.getpid()} "
        with pytest.raises(ConfigError, match=said), holding(folder):
            raise AssertionError
        assert (folder / HOLDER).is_file()
    with holding(folder):
        pass
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_an_error_ends_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), holding(tmp_path):
        _ = 1 / 0
    with holding(tmp_path):
        (tmp_path / HOLDER).write_text("half a lin")
        with pytest.raises(ConfigError, match="in use by another process; wait"), holding(tmp_path):
            raise AssertionError
