"""Processes that work for another one end when it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmkd.processes import each

WORK = """
import os, time
from pathlib import Path
from mmkd.processes import each

def sleep(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(120)

if __name__ == "__main__":
    folder = Path(__file__).parent / "alive"
    folder.mkdir()
    try:
        list(each(2, sleep, [folder] * 4))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks the kernel who is alive")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    """However it dies; and of the calls that were waiting none begins."""
    script, folder = tmp_path / "work.py", tmp_path / "alive"
    script.write_text(WORK)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        deadline = time.monotonic() + 60
        while not folder.is_dir() or len(list(folder.iterdir())) < 2:
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = [int(path.name) for path in folder.iterdir()]
        assert all(map(alive, workers))
        parent.send_signal(number)
        deadline = time.monotonic() + 2
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(alive, workers))
        said, _ = parent.communicate(timeout=20)
    assert (said, len(list(folder.iterdir()))) == ("interrupted\n" if number == signal.SIGINT else "", 2)


def test_in_one_process_calls_are_made_here() -> None:
    assert list(each(1, lambda _: os.getpid(), range(2))) == [os.getpid()] * 2
