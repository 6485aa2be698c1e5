"""Kill studies at random, run the same command again, and compare all results with an undisturbed study.

    .venv/bin/python scripts/soak/studies.py --kills 15

For ``--jobs 1`` and ``--jobs 2`` a study of three methods with two seeds is killed so many times with
SIGKILL, up to three times before it may end. Counted are studies whose results are equal to the last digit,
runs that are lost, processes that outlive the one that was killed, and files that are left over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml
from runs import forked, killed

import mmkd.__main__
from mmkd.lock import HOLDER
from mmkd.tradeoff.running import run
from mmkd.tradeoff.study import Study

BASE = {
    "data": {"class_path": "mmkd.testing.aggregations.PointData", "init_args": {"batch_size": 4}},
    "model": {
        "peers": {"peers": {"count": 5, "student": {"class_path": "mmkd.testing.aggregations.Points"}}},
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 6, "logger": False, "num_sanity_val_steps": 0},
}
SCHEDULE = {"local_steps": 4, "block": 2, "rounds_per_epoch": 2}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "alone": ("none", {"schedule": SCHEDULE}),
    "scaffold": (
        "weights",
        {"schedule": SCHEDULE, "topology": {"class_path": "Star"}, "aggregation": {"class_path": "Scaffold"}},
    ),
    "distillation": (
        "knowledge",
        {
            "schedule": {**SCHEDULE, "knowledge_every": 2},
            "topology": {"class_path": "Ring"},
            "knowledge": {"class_path": "SharedLogits"},
        },
    ),
}
GRACE = 10.0
"""Seconds that a process may take to notice that the one above it is gone."""


def study(folder: Path) -> Path:
    """The file of the study, written with its configurations."""
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    methods = {}
    for name, (family, factors) in METHODS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"decentralized": factors}))
        methods[name] = {"label": name, "family": family, "configs": [f"{name}.yaml"]}
    content = {"name": "soak", "title": "Soak", "seeds": [0, 1], "configs": ["base.yaml"], "methods": methods}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return folder / "study.yaml"


def conduct(file: Path, out: Path, jobs: int) -> None:
    """Run a study in a process group of its own."""
    os.setpgid(0, 0)
    # As in the command: what a process of --jobs imports of this one first is small; it soon watches it.
    sys.modules["__main__"] = mmkd.__main__
    torch.set_num_threads(1)
    if not run(Study.read(file), out, command="soak", jobs=jobs):
        raise RuntimeError("a run has no result")


def left_by(out: Path) -> dict[str, str]:
    """All that the runs of a finished study leave, without times and names of folders, by file."""
    found = {}
    for path in sorted((out / "runs").rglob("*")):
        if path.name == "result.json":
            result = json.loads(path.read_text())
            for timed in ("seconds", "digest", "files"):  # hashes of what has times in it
                result.pop(timed, None)
            for cost in result["cost"].values():
                del cost["milliseconds"]
            found[str(path.relative_to(out))] = json.dumps(result, sort_keys=True)
        elif path.is_file() and path.name not in (".run", "config.yaml"):
            found[str(path.relative_to(out))] = path.read_text()
    return found


def orphans(group: int) -> int:
    """Processes of a group that are alive when the grace is over."""
    until = time.monotonic() + GRACE
    while alive := _alive(group):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return alive


def _alive(group: int) -> int:
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        count += int(its_group) == group and state != "Z"
    return count


def soak(kills: int, jobs: int, draw: random.Random, found: Counter[str]) -> None:
    """Kill studies until so many kills are done; what is counted is added to ``found``."""
    with tempfile.TemporaryDirectory() as name:
        file = study(Path(name))
        begun = time.monotonic()
        status = killed(forked(conduct, file, Path(name) / "whole", jobs), 1e9, Path(name), writing=False)
        if status:
            raise SystemExit(f"a study ends with status {status} undisturbed")
        seconds = time.monotonic() - begun
        whole = left_by(Path(name) / "whole")
        done = 0
        while done < kills:
            out = Path(name) / f"cut{found['studies']}"
            found["studies"] += 1
            for _ in range(draw.randint(1, 3)):
                pid = forked(conduct, file, out, jobs)
                status = killed(pid, draw.uniform(0, 0.9 * seconds), out, writing=False)
                found["orphans"] += orphans(pid)
                if status is not None:
                    break
                done += 1
                found[f"kills with --jobs {jobs}"] += 1
            if status is None:
                status = killed(forked(conduct, file, out, jobs), 1e9, out, writing=False)
            if status:
                found["lost"] += 1
                print(f"a study ends with status {status}", file=sys.stderr)
                continue
            left = left_by(out)
            different = sorted(n for n in whole.keys() | left.keys() if whole.get(n) != left.get(n))
            found["equal" if not different else "different"] += 1
            for path in different:
                was, now = (text.get(path, "")[:4000] for text in (whole, left))
                print(f"{path} was {was}\nand is {now}", file=sys.stderr)
            found["left over"] += len(list(out.rglob("*.part"))) + len(list(out.rglob(HOLDER)))


def main() -> int:
    """Soak, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=15, help="for each number of jobs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, found = random.Random(options.seed), Counter[str]()
    for jobs in (1, 2):
        soak(options.kills, jobs, draw, found)
    for name in dict.fromkeys([*found, "lost", "different", "orphans", "left over"]):
        print(f"{found[name]:6} {name}")
    return int(any(found[name] for name in ("lost", "different", "orphans", "left over")))


if __name__ == "__main__":
    sys.exit(main())
