"""What a local step of one peer costs, and how much memory all of them need, from 16 to 10,000 peers.

The model and the samples are those of ``rivals/workload.py``; each point runs in a process of its own. With
``--sample`` so many peers, drawn anew every round, take part in FedAvg through a hub; without it everybody
trains and nobody exchanges anything, so that every peer has weights and an optimizer state of its own.

    python scripts/bench/scaling.py --peers 16 100 1000 10000
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

RIVALS = Path(__file__).parent / "rivals"


def one(peers: int, sample: int | None, rounds: int, optimizer: str, compile: str) -> dict[str, float]:
    """Train in this process, and say what it cost."""
    sys.path.insert(0, str(RIVALS))
    import ours
    import torch
    from workload import BATCH, OWNED

    from mmkd.federated import FedAvg

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    start, ends = time.perf_counter(), list[float]()
    there, average = (peers, None) if sample is None else (sample, FedAvg(among="all"))
    ours.run(rounds, lambda: ends.append(time.perf_counter()), compile, peers, there, average, optimizer)
    seconds = statistics.median(b - a for a, b in itertools.pairwise(ends))
    return {
        "microseconds": 1e6 * seconds / (there * OWNED // BATCH),
        "start": ends[0] - start,
        "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure all sizes in turn, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, nargs="+", default=[16, 64, 256, 1000, 4000, 10000])
    parser.add_argument("--sample", type=int)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="adam")
    parser.add_argument("--compile", choices=["never", "record", "inductor"], default="record")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        how = (options.sample, options.rounds, options.optimizer, options.compile)
        print(json.dumps(one(options.peers[0], *how)), flush=True)
        return
    found: dict[int, list[dict[str, float]]] = {peers: [] for peers in options.peers}
    for _ in range(options.repeats):
        for peers in options.peers:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", "--peers", str(peers)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            found[peers].append(json.loads(done.stdout.strip().splitlines()[-1]))
    print(f"{'peers':>8} {'us a peer-step':>15} {'of the first':>13} {'start, s':>9} {'peak, MiB':>10}")
    first = None
    for peers, runs in found.items():
        cost, start, memory = (statistics.median(r[k] for r in runs) for k in runs[0])
        first = first or cost
        print(f"{peers:8} {cost:15.1f} {cost / first:13.2f} {start:9.1f} {memory:10.0f}")


if __name__ == "__main__":
    main()
