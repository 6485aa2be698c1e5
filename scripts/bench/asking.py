"""What devices win by asking, on several seeds: curves of all policies, calibration, and budgets.

    python scripts/bench/asking.py --out results/offloading

A run of TrimodalDigits is trained for each seed, by the quickstart's distillation and as long, unless it is
there. Then eleven peers ask the camera ``cameras/0`` over ``--link``. The script writes ``offloading.csv``,
which has all figures, and ``offloading.png``, and prints the tables of ``docs/edge.md``: means over seeds,
and behind them the intervals of ``mmkd.tradeoff.pareto.Spread``, which are ranges where seeds are few.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mmkd.__main__ import main as mmkd
from mmkd.edge.budgets import budget
from mmkd.edge.comparing import Compared, compared
from mmkd.edge.showing import SAID, picture
from mmkd.edge.trained import trained
from mmkd.tables import write_rows
from mmkd.tradeoff.pareto import spread

CONFIGS = ("data/digits", "peers/trio", "method/distillation", "trainer/quick")
ASKED = "cameras/0"
BUDGETS = ("10%", "20%", "50%", "30B", "5ms")


def found(out: Path, seed: int, over: Sequence[str], budgets: Sequence[str]) -> Compared:
    """What is found of one seed, which is trained if it is not there."""
    folder = out / f"seed-{seed}"
    if not (folder / "checkpoints").is_dir():
        files = [part for name in CONFIGS for part in ("-c", f"configs/{name}.yaml")]
        settings = [f"--seed_everything={seed}", f"--data.init_args.seed={seed}", "--trainer.logger=false"]
        if mmkd(["fit", *files, *settings, f"--recorder.folder={folder}"]) != 0:
            raise SystemExit(f"seed {seed} was not trained")
    amounts = [budget(text) for text in budgets]
    return compared(trained(folder, None, []), None, [ASKED], over=over, budgets=amounts)


def said(values: Iterable[float], digits: int = 1) -> str:
    """A mean, and its interval."""
    whole = spread(values)
    low, high = whole.interval()
    return f"{whole.mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def area(run: Compared, unit: str, name: str) -> float:
    """Mean accuracy over all budgets, in percent."""
    return 100 * (run.alone + run.curves[unit][name].area)


def at(run: Compared, unit: str, name: str, share: float) -> float:
    """Accuracy at a share of the cost of asking about everything, in percent."""
    return 100 * (run.alone + run.curves[unit][name].at(share))


def of_oracle(run: Compared, unit: str, name: str) -> float:
    """How much of what an oracle has before asking at random a policy has, in percent."""
    curves = run.curves[unit]
    low, high = curves["random"].area, curves["oracle"].area
    return 100 * (curves[name].area - low) / (high - low)


COLUMNS: dict[str, Callable[[Compared, str], float]] = {
    "area": lambda run, name: area(run, "requests", name),
    "of the oracle's, %": lambda run, name: of_oracle(run, "requests", name),
    "10 % asked": lambda run, name: at(run, "requests", name, 0.1),
    "20 % asked": lambda run, name: at(run, "requests", name, 0.2),
    "50 % asked": lambda run, name: at(run, "requests", name, 0.5),
    "area (bytes)": lambda run, name: area(run, "bytes", name),
    "10 % of bytes": lambda run, name: at(run, "bytes", name, 0.1),
    "area (latency)": lambda run, name: area(run, "seconds", name),
    "10 % of latency": lambda run, name: at(run, "seconds", name, 0.1),
}


def policies(runs: Sequence[Compared]) -> str:
    """The table of policies."""
    lines = [f"| Policy | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name in runs[0].curves["requests"]:
        cells = [said(column(run, name) for run in runs) for column in COLUMNS.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def budgets(runs: Sequence[Compared]) -> str:
    """The table of budgets: what test samples spend of what was allowed, and how far devices are from it."""
    head = ["Budget", "thresholds", "spent, % of it", "devices off by, % of it", "asked, %", "accuracy"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for number, first in enumerate(runs[0].kept):
        kept = [run.kept[number] for run in runs]
        amount = first.budget.amount
        cells = [
            said((100 * one.spent / amount for one in kept), 0),
            said((100 * one.away / amount for one in kept), 0),
            said(100 * one.asked for one in kept),
            said(100 * one.accuracy for one in kept),
        ]
        lines.append(f"| {first.budget.said} | {first.way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(seed: int, run: Compared) -> Iterator[list[Any]]:
    """All figures of a seed, one a row: what it is, of which unit, and of which policy or thresholds."""
    yield [seed, "accuracy alone", "", "", run.alone]
    yield [seed, "accuracy of who is asked", "", "", run.asked]
    yield [seed, "calibration error", "", "without temperatures", run.error[0]]
    yield [seed, "calibration error", "", "with temperatures", run.error[1]]
    yield [seed, "seconds alone", "", "", run.seconds]
    for unit, curves in run.curves.items():
        yield [seed, "cost of asking", unit, "", run.whole[unit]]
        for name, curve in curves.items():
            yield [seed, "area", unit, name, run.alone + curve.area]
            for share in (0.1, 0.2, 0.5):
                yield [seed, f"accuracy at {share:.0%}", unit, name, run.alone + curve.at(share)]
    for kept in run.kept:
        about = kept.budget.unit, kept.way
        yield [seed, f"spent of {kept.budget.said}", *about, kept.spent]
        yield [seed, f"off from {kept.budget.said}", *about, kept.away]
        yield [seed, f"asked with {kept.budget.said}", *about, kept.asked]
        yield [seed, f"accuracy with {kept.budget.said}", *about, kept.accuracy]


def main() -> None:
    """Train, compare, write and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/offloading"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--link", nargs="+", default=["wifi"])
    parser.add_argument("--budget", nargs="+", default=list(BUDGETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = [found(options.out, seed, options.link, options.budget) for seed in options.seeds]
    with (options.out / "offloading.csv").open("w", newline="") as file:
        write_rows(file, [["seed", "what", "of", "by", "figure"]])
        for seed, run in zip(options.seeds, runs, strict=True):
            write_rows(file, ([*row, f"{figure:.6g}"] for *row, figure in rows(seed, run)))
    picture(*runs).savefig(options.out / "offloading.png", dpi=150)
    print(f"alone {said(100 * r.alone for r in runs)}, {ASKED} {said(100 * r.asked for r in runs)}")
    print(f"calibration error {said((r.error[0] for r in runs), 3)}, with temperatures", end=" ")
    print(said((r.error[1] for r in runs), 3))
    print(", ".join(f"{SAID[u]} {said((r.whole[u] for r in runs), 4)}" for u in SAID), "for one")
    print(f"alone in {said((1000 * r.seconds for r in runs), 3)} ms")
    print(f"\n{policies(runs)}\n\n{budgets(runs)}")


if __name__ == "__main__":
    main()
