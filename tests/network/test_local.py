"""A network on one machine whose processes are started again when they die."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from tests.network.test_commands import CONFIG
from tests.transport.test_zenoh import free_ports

pytest.importorskip("zenoh")


EPOCHS = 60
"""Of two rounds: long enough for a process to start meanwhile."""


def children(pid: int) -> list[int]:
    """Processes that a process has started, oldest first."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("late", ["go_on", "stop"])
def test_a_process_that_is_killed_is_started_again_and_all_end_well(tmp_path: Path, late: str) -> None:
    """The others go on, and it comes in; or they stop at the deadline, and all go on together."""
    path = tmp_path / "network.yaml"
    trainer = {
        **CONFIG["trainer"],
        "max_epochs": EPOCHS,
        "check_val_every_n_epoch": EPOCHS,
        "callbacks": [{"class_path": "rounds.Rounds"}],
    }
    path.write_text(yaml.safe_dump({**CONFIG, "trainer": trainer}))
    command = [
        *(sys.executable, "-m", "mmkd", "network", "up", "-c", str(path), "--processes", "3", "--restart"),
        *("--late", late, "--deadline", "5", "--port", str(free_ports(1)[0])),
        *("--folder", str(tmp_path / "out")),
    ]
    soak = str(Path(__file__).parents[2] / "scripts" / "soak")
    paced = {"PYTHONPATH": soak, "SOAK_PAUSE": "0.3", "SOAK_ROUNDS": str(tmp_path / "rounds.txt")}
    checkpoints, lines = tmp_path / "out" / "1" / "checkpoints", list[str]()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **paced}) as network:
        assert network.stderr is not None
        reader = threading.Thread(target=lines.extend, args=(network.stderr,), daemon=True)
        reader.start()
        try:
            until = time.monotonic() + 200
            while not list(checkpoints.glob("round-?.ckpt")):
                assert time.monotonic() < until, "".join(lines)
                time.sleep(0.05)
            os.kill(children(network.pid)[1], signal.SIGKILL)
            assert network.wait(240) == 0, "".join(lines)
        finally:
            network.terminate()
        reader.join(10)
    text = "".join(lines)
    assert "process 1 has ended with status -9 and is started again" in text
    last = [max(int(p.stem[6:]) for p in (tmp_path / "out" / str(i)).rglob("round-*.ckpt")) for i in range(3)]
    assert last == [2 * EPOCHS - 1] * 3
    if late == "stop":
        assert text.count("is started again") >= 3
        assert text.count("mmkd: all go on after round ") == 3
        return
    came = re.search(r"^1: mmkd: others train; this process comes in in round (\d+)$", text, re.MULTILINE)
    assert came is not None, text
    assert int(came[1]) < last[1]
