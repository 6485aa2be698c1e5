"""Studies on a Ray cluster of this machine's own leave what processes leave, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import yaml

from mmkd.launch.cluster import LOOPBACK
from mmkd.lock import HOLDER
from tests.tradeoff.test_study import make_study
from tests.transport.test_zenoh import free_ports

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks the kernel who is alive"),
]
ROOT = Path(__file__).parents[2]
MARK = "MMKD_TEST_OF_RAY"
"""Variable by which all processes are known that a command has started."""


def start(*arguments: str) -> subprocess.Popen[str]:
    """A command of mmkd in a process of its own; ``living`` knows those that it starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "mmkd", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", MARK: str(time.monotonic_ns())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def living(command: subprocess.Popen[str]) -> Callable[[], set[int]]:
    """The processes that a command has started and that run, those among them that have lost their parent."""
    mark = Path(f"/proc/{command.pid}/environ").read_bytes().split(f"{MARK}=".encode())[1].split(b"\0")[0]

    def found() -> set[int]:
        pids = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes():  # empty for those that have ended
                    pids.add(int(path.parent.name))
            except OSError:
                continue
        return pids

    return found


def wait(what: Callable[[], Any], seconds: float, command: subprocess.Popen[str] | None = None) -> Any:
    """What a function says once it is something; the command has not ended by then."""
    until = time.monotonic() + seconds
    while not (said := what()):
        assert command is None or command.poll() is None, command.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)
    return said


def holder(folder: Path) -> int | None:
    """The process that writes into a run's folder and has saved its first checkpoint; None as long as none has."""
    try:
        return (
            int(json.loads((folder / HOLDER).read_text())["process"])
            if any(folder.glob("check*/*"))
            else None
        )
    except (OSError, ValueError):
        return None


def left_by(out: Path) -> dict[str, Any]:
    """All that the runs of a study leave, without times, by file."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name == "result.json":
            result = json.loads(path.read_text())
            for timed in ("seconds", "digest", "files"):
                del result[timed]
            for cost in result["cost"].values():
                del cost["milliseconds"]
            found[name] = result
        elif path.name == "config.yaml":
            found[name] = path.read_text().replace(str(out), "OUT")
        elif path.name == "study.json":
            found[name] = {**json.loads(path.read_text()), "command": ""}
        elif path.is_file() and path.suffix in (".csv", ".json") and path.name != "summary.csv":
            found[name] = path.read_text()
        elif path.name != ".run":
            found[name] = None  # it is there
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return make_study(folder).path


@pytest.fixture(scope="module")
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study leaves that two processes make, with forty epochs in place of two."""
    out = tmp_path_factory.mktemp("whole") / "out"
    said, _ = (command := start(*arguments(study, out), "--jobs", "2")).communicate(timeout=300)
    assert command.returncode == 0, said
    return left_by(out)


def arguments(study: Path, out: Path) -> list[str]:
    return ["tradeoff", str(study), "--out", str(out), "--set", "trainer.max_epochs=40"]


def on_ray(study: Path, out: Path) -> subprocess.Popen[str]:
    return start(*arguments(study, out), "--jobs", "2", "--engine", "ray")


def test_a_study_on_ray_leaves_what_processes_leave(
    study: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """The same files with the same numbers, and of Ray nothing, neither processes nor files."""
    command = on_ray(study, tmp_path / "out")
    alive = living(command)
    said, _ = command.communicate(timeout=300)
    assert command.returncode == 0, said
    assert len([name for name in whole if name.endswith("result.json")]) == 4
    assert left_by(tmp_path / "out") == whole
    wait(lambda: not alive(), 20)


def test_a_run_whose_process_is_killed_goes_on(study: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    """Twice, each time in the middle of another run; nothing of it shows in what is left."""
    out = tmp_path / "out"
    command = on_ray(study, out)
    for run in ("isolated/seed0", "fedavg/seed1"):
        os.kill(wait(lambda run=run: holder(out / "runs" / run), 120, command), signal.SIGKILL)
    said, _ = command.communicate(timeout=300)
    assert command.returncode == 0, said
    assert left_by(out) == whole


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_all_ends_with_the_command(
    number: signal.Signals, status: int, study: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """However it ends; and the same command goes on, without Ray if need be."""
    out = tmp_path / "out"
    command = on_ray(study, out)
    alive = living(command)
    wait(lambda: holder(out / "runs/isolated/seed0"), 120, command)
    assert len(alive()) > 3  # Ray's own, and two that train
    command.send_signal(number)
    said, _ = command.communicate(timeout=60)
    assert command.returncode == status, said
    if status > 0:
        assert said.rstrip().endswith("mmkd: stopped; run the same command again to go on")
    wait(lambda: not alive(), 120)  # what trains at once, and two agents of Ray's after a minute
    again = start(*arguments(study, out), "--jobs", "2")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert left_by(out) == whole


HOST = """
import sys
import ray
from mmkd.launch.cluster import joined
with joined(None, 2):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
    print(len(ray.nodes()), flush=True)
"""


def test_a_cluster_that_runs_is_joined_and_stays(
    study: Path, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is stopped takes its work with it; the next one finds the cluster as it was."""
    for name, value in {**LOOPBACK, "RAY_AUTH_TOKEN": token_hex(32)}.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOST], stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as host:
        try:
            assert host.stdout is not None
            monkeypatch.setenv("RAY_ADDRESS", host.stdout.readline().strip())
            command = on_ray(study, out)
            worker = wait(lambda: holder(out / "runs/isolated/seed0"), 120, command)
            command.terminate()
            command.communicate(timeout=60)
            assert command.returncode == 143
            wait(lambda: not Path(f"/proc/{worker}/environ").exists(), 20)
            said, _ = (again := on_ray(study, out)).communicate(timeout=300)
            assert again.returncode == 0, said
        finally:
            told, _ = host.communicate("end\n", timeout=60)
    assert told == "1\n"
    assert left_by(out) == whole


def test_where_no_cluster_is_a_line_says_so(study: Path, tmp_path: Path) -> None:
    [port] = free_ports(1)
    command = start(*arguments(study, tmp_path / "out"), "--engine", "ray", "--address", f"127.0.0.1:{port}")
    said, _ = command.communicate(timeout=60)
    assert command.returncode == 2
    assert said.startswith(f"mmkd: no Ray cluster can be joined at 127.0.0.1:{port}: ")
    assert len(said.splitlines()) == 1


def test_trials_on_ray_find_the_same_settings(study: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(study.read_text())
    content["search"] = {"trials": 3, "settings": {"model.clip": [0.1, 1.0, 10.0]}}
    study = study.with_name("search.yaml")
    study.write_text(yaml.safe_dump(content))
    for engine in ("processes", "ray"):
        out = tmp_path / engine
        command = start("tune", str(study), "--out", str(out), "--jobs", "2", "--engine", engine)
        said, _ = command.communicate(timeout=300)
        assert command.returncode == 0, said
    one, two = (left_by(tmp_path / engine) for engine in ("processes", "ray"))
    assert one == two
    assert len(one["trials.csv"].splitlines()) == 1 + 2 * 3
