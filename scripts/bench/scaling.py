"""Measure the time of a local step of one peer and the memory of all peers, from one peer to 100,000.

Students and samples are those of ``rivals/workload.py``; each point runs in a process of its own, all of them
in turn and several times over. The script writes ``scaling.csv`` and ``scaling.png`` into a folder.

    python scripts/bench/scaling.py --out docs
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RIVALS = Path(__file__).parent / "rivals"
ALONE, SAMPLED = "all train, Adam", "FedAvg, 64 of them a round"
BATCHES, WHOLE = "distilling batches, 4 neighbours", "distilling 256 samples, 4 neighbours"
SIXTY_FOUR = "distilling 256 samples, 64 of them a round"
WIDTH, PUBLIC, HEADS, EDGES = "hidden units", "public batch", "auxiliary heads", "neighbours"
CURVES: dict[str, list[int]] = {
    ALONE: [1, 4, 16, 64, 256, 1000, 4000, 10_000],
    SAMPLED: [64, 256, 1000, 10_000, 100_000],
    BATCHES: [16, 64, 256, 1000, 4000, 10_000],
    WHOLE: [16, 64, 256, 1000, 4000, 10_000],
    SIXTY_FOUR: [64, 256, 1000, 10_000],
    WIDTH: [16, 32, 64, 128, 256, 512],
    PUBLIC: [4, 8, 16, 32, 64, 128],
    HEADS: [1, 2, 3, 4, 6],
    EDGES: [2, 4, 8, 16, 32, 63],
}
"""Points of each curve: numbers of peers in the first five, and some other size for 64 peers in the rest."""
OVER_PEERS = list(CURVES)[:5]


def point(curve: str, at: int) -> tuple[int, int, dict[str, Any]]:
    """The peers of a point, how many of them take part in a round, and arguments of ``ours.train``."""
    from ours import Student

    from mmkd.federated import FedAvg
    from mmkd.knowledge import MultiHeadDistillation, SharedLogits
    from mmkd.participation import Sampled
    from mmkd.topology import RandomRegular, Ring, Star

    adam = functools.partial(Student, optimizer="adam")
    some = Sampled(count=min(64, at))
    if curve == ALONE:
        return at, at, {"make": adam}
    if curve == SAMPLED:
        return at, 64, {"aggregation": FedAvg(among="all"), "topology": Star(), "participation": some}
    if curve == BATCHES:
        return at, at, {"make": adam, "knowledge": SharedLogits(), "topology": RandomRegular(4, every=1)}
    if curve == WHOLE:
        knowledge = SharedLogits(samples="all")
        return at, at, {"make": adam, "knowledge": knowledge, "topology": RandomRegular(4, every=1)}
    if curve == SIXTY_FOUR:
        knowledge = SharedLogits(samples="all")
        return at, 64, {"make": adam, "knowledge": knowledge, "topology": Star(), "participation": some}
    if curve == WIDTH:
        return 64, 64, {"make": functools.partial(adam, width=at)}
    more: dict[str, Any] = {"topology": Ring(), "knowledge_every": 1}
    if curve == PUBLIC:
        return 64, 64, {"make": adam, "knowledge": SharedLogits(), "public_batch_size": at, **more}
    if curve == HEADS:
        return (
            64,
            64,
            {"make": functools.partial(adam, heads=at), "knowledge": MultiHeadDistillation(), **more},
        )
    return 64, 64, {"make": adam, "knowledge": SharedLogits(), **more, "topology": RandomRegular(at)}


def one(curve: str, at: int, rounds: int) -> dict[str, float]:
    """Train in this process; return microseconds of a local step, seconds of the first round, and memory."""
    sys.path.insert(0, str(RIVALS))
    import torch
    from ours import LOCAL_STEPS, train

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    peers, there, how = point(curve, at)
    start, ends = time.perf_counter(), list[float]()
    train(rounds, lambda: ends.append(time.perf_counter()), peers, **how)
    seconds = statistics.median(b - a for a, b in itertools.pairwise(ends))
    return {
        "microseconds": 1e6 * seconds / (there * LOCAL_STEPS),
        "start": ends[0] - start,
        "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _middle(runs: list[dict[str, float]], key: str) -> float:
    return round(statistics.median(run[key] for run in runs), 1)


def write(found: dict[tuple[str, int], list[dict[str, float]]], out: Path) -> None:
    """Write medians of the measurements so far as a table and a figure."""
    rows = [
        {"curve": curve, "at": at} | {key: _middle(runs, key) for key in runs[0]}
        for (curve, at), runs in found.items()
        if runs
    ]
    from mmkd.tables import write_rows

    out.mkdir(parents=True, exist_ok=True)
    with (out / "scaling.csv").open("w", newline="") as file:
        write_rows(file, [rows[0], *(row.values() for row in rows)])
    draw(rows, out / "scaling.png")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory over peers, and the time of the other curves relative to their fastest point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (cost, memory, rest) = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for curve in dict.fromkeys(row["curve"] for row in rows):
        mine = [row for row in rows if row["curve"] == curve]
        at, micro = [row["at"] for row in mine], [row["microseconds"] for row in mine]
        if curve in OVER_PEERS:
            cost.plot(at, micro, "o-", label=curve)
            memory.plot(at, [row["mebibytes"] / 1024 for row in mine], "o-", label=curve)
        else:
            rest.plot(at, [m / min(micro) for m in micro], "o-", label=curve)
    cost.set(title="A local step of one peer", xlabel="peers", ylabel="microseconds", yscale="log")
    memory.set(title="Peak memory of the process", xlabel="peers", ylabel="GiB")
    rest.set(
        title="A local step of one of 64 peers",
        xlabel="hidden units, public batch, heads, neighbours",
        ylabel="times the cheapest",
    )
    for axes in (cost, memory, rest):
        axes.set(xscale="log")
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0 if axes is memory else None)
        if axes is not memory and axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Measure all points in turn, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", nargs="+", default=list(CURVES), choices=list(CURVES))
    parser.add_argument("--most", type=int, help="leave points beyond this out")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/scaling"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], int(options.one[1]), options.rounds)), flush=True)
        return
    points = [(c, at) for c in options.curves for at in CURVES[c] if at <= (options.most or at)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {p: [] for p in points}
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    for _ in range(options.repeats):
        for curve, at in points:
            command = [sys.executable, __file__, "--rounds", str(options.rounds), "--one", curve, str(at)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{curve}, {at}:\n{done.stderr[-2000:]}")
            found[curve, at].append(json.loads(done.stdout.strip().splitlines()[-1]))
            latest = found[curve, at][-1]
            print(f"{curve:44} {at:7} " + " ".join(f"{v:10.1f} {k}" for k, v in latest.items()), flush=True)
            write(found, options.out)  # after each: some take minutes


if __name__ == "__main__":
    main()
