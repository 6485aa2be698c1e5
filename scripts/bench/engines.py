"""Measure a study of many short runs by processes of this machine and by Ray, side by side and in turn.

    .venv/bin/python scripts/bench/engines.py --repeats 3

Each engine runs the same command, ``mmkd tradeoff``, with two runs side by side, and begins every other time.
Printed are seconds from the command to its end, how long it takes to start Ray and to end it with nothing to
do in between, the load of the machine before each, and whether both have left the same results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

JOBS = 2
START = "Ray alone"
"""A cluster that is started and ended, with nothing to do in between."""
COMMANDS = {"processes": ["--engine", "processes"], "ray": ["--engine", "ray"], START: None}
BASE: dict[str, Any] = {
    "data": {"class_path": "mmkd.testing.aggregations.PointData", "init_args": {"batch_size": 4}},
    "model": {
        "peers": {"peers": {"count": 5, "student": {"class_path": "mmkd.testing.aggregations.Points"}}},
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 20, "logger": False, "num_sanity_val_steps": 0},
    "decentralized": {
        "schedule": {"local_steps": 4, "rounds_per_epoch": 2},
        "topology": {"class_path": "Star"},
        "aggregation": {"class_path": "FedAvg"},
    },
}


def study(folder: Path, runs: int) -> Path:
    """The file of a study with one method and as many seeds as runs."""
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    method = {"label": "FedAvg", "family": "weights"}
    content = {
        "name": "engines",
        "title": "Engines",
        "seeds": [*range(runs)],
        "configs": ["base.yaml"],
        "methods": {"fedavg": method},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return folder / "study.yaml"


def measured(file: Path, engine: str, out: Path) -> float:
    """Seconds that a command takes."""
    options = COMMANDS[engine]
    command = [sys.executable, "-m", "mmkd", "tradeoff", str(file), "--out", str(out), f"--jobs={JOBS}"]
    if options is None:
        script = f"from mmkd.launch.cluster import joined\nwith joined(None, {JOBS}): pass"
        command = [sys.executable, "-c", script]
    begun = time.monotonic()
    subprocess.run([*command, *(options or ())], check=True, capture_output=True)
    return time.monotonic() - begun


def scores(out: Path) -> dict[str, Any]:
    """What the runs of a study have reached and sent, by their folders."""
    found = {}
    for path in (out / "runs").rglob("result.json"):
        result = json.loads(path.read_text())
        found[str(path.parent.relative_to(out))] = (result["test"], result["val"], result["ledger"])
    return found


def main() -> int:
    """Measure, and print a line a command and the medians; returns 1 if results differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {engine: [] for engine in COMMANDS}
    equal = True
    with tempfile.TemporaryDirectory() as name:
        file = study(Path(name), options.runs)
        for repeat in range(options.repeats):
            order = list(COMMANDS) if repeat % 2 else list(COMMANDS)[::-1]
            for engine in order:
                load = os.getloadavg()[0]
                took = measured(file, engine, Path(name) / f"{engine}{repeat}")
                seconds[engine].append(took)
                print(f"{engine:>10}: {took:6.1f} s, load {load:.1f} before", flush=True)
            one, two = (scores(Path(name) / f"{engine}{repeat}") for engine in ("processes", "ray"))
            equal &= one == two and len(one) == options.runs
    medians = {engine: statistics.median(took) for engine, took in seconds.items()}
    whole, without = medians["ray"], medians["ray"] - medians[START]
    print(f"{options.runs} runs, {JOBS} side by side, medians of {options.repeats}:")
    print(f"processes {medians['processes']:.1f} s, Ray {whole:.1f} s, and {without:.1f} s without its start")
    print(f"results are {'equal' if equal else 'different'}")
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
