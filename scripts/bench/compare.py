"""Time one federated round in mmkd and in other simulators, in turn, and print ratios.

The round is that of ``rivals/workload.py``: of 100 peers with 50 samples each, 50 take five local steps of a
small perceptron. Each simulator runs in a process of its own, in an environment of its own under
``.cache/bench`` (made once, with uv), one after the other and several times over; start-up does not count.
All must reach the same accuracy, which is printed beside the time.

    python scripts/bench/compare.py --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
RIVALS = Path(__file__).parent / "rivals"
PACKAGES = {"pfl": ["pfl==0.6.0", "torch==2.13.0"], "flower": ["flwr[simulation]==1.42.0", "torch==2.13.0"]}


class Way(NamedTuple):
    """One way to simulate the round."""

    script: str
    environment: str | None  # name of an environment; None for that of this process
    arguments: tuple[str, ...] = ()
    slow: int = 1  # factor by which it runs fewer rounds


WAYS = {
    "mmkd": Way("ours.py", None),
    "mmkd, recorded": Way("ours.py", None, ("--compile", "record")),
    "mmkd, compiled": Way("ours.py", None, ("--compile", "inductor")),
    "bare vectorised loop": Way("bare.py", None),
    "plain loop": Way("plain.py", None),
    "pfl-research": Way("pfl_research.py", "pfl"),
    "a Trainer per peer": Way("trainer_per_peer.py", None, slow=4),
    "Flower simulation": Way("flower.py", "flower", slow=4),
}


def python(environment: str | None) -> str:
    """The path of an environment's interpreter; a missing environment is made."""
    if environment is None:
        return sys.executable
    folder = ROOT / ".cache" / "bench" / environment
    found = folder / "bin" / "python"
    if not found.exists():
        subprocess.run([sys.executable, "-m", "uv", "venv", "--python", sys.executable, folder], check=True)
        install = [sys.executable, "-m", "uv", "pip", "install", "--python", str(found)]
        subprocess.run([*install, *PACKAGES[environment]], check=True)
    return str(found)


def measure(way: Way, rounds: int, threads: int) -> tuple[float, float, float]:
    """Milliseconds of a round (median), seconds to the end of the first round, and accuracy at the end."""
    command = [
        python(way.environment),
        way.script,
        "--rounds",
        str(max(4, rounds // way.slow)),
        *way.arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=RIVALS, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way.script} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return 1e3 * statistics.median(found["seconds"]), found["start"], found["accuracy"]


def main() -> None:
    """Time all ways in turn, and print their ratios to mmkd."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in options.ways}
    for _ in range(options.repeats):
        for name in options.ways:
            found[name].append(measure(WAYS[name], options.rounds, options.threads))
    base = options.ways[0]
    print(f"{options.repeats} repeats in turn, {options.threads} thread(s); ratios are of the same repeat")
    heads = ("ms a round", "of the first", "least", "most", "start", "accuracy")
    print(f"{'':22} " + " ".join(f"{head:>12}" for head in heads))
    for name, runs in found.items():
        ratios = [run[0] / first[0] for run, first in zip(runs, found[base], strict=True)]
        middle = [statistics.median(column) for column in zip(*runs, strict=True)]
        figures = (middle[0], statistics.median(ratios), min(ratios), max(ratios), *middle[1:])
        digits = (1, 2, 2, 2, 1, 3)
        print(f"{name:22} " + " ".join(f"{f:12.{d}f}" for f, d in zip(figures, digits, strict=True)))


if __name__ == "__main__":
    main()
