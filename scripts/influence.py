"""Does the influence matrix tell who helps? Every teacher is silenced in turn, and all train anew.

The peers of the headline study distil over a complete graph. One run measures the influence of each
teacher on each listener as it trains (``mmkd.callbacks.Diagnostics``, on validation samples). Then
everybody trains again once per teacher, who listens but says nothing, and what a listener loses is the
rise of its *test* loss. Both are compared by rank: for each teacher (mean over its listeners) and for
each pair.

    python scripts/influence.py --out docs
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor

from mmkd.callbacks import Diagnostics
from mmkd.data.samples import take_private
from mmkd.functional.classification import cross_entropy
from mmkd.tradeoff.study import Study

ROOT = Path(__file__).parents[1]


class Trained(NamedTuple):
    """What became of a run."""

    names: list[str]
    losses: Tensor  # [peers], on test samples
    influence: Tensor | None  # [listeners, teachers], if nobody was silent


def train(study: Study, seed: int, folder: Path, silent: int | None = None) -> Trained:
    """Train all, with everybody or with one teacher silent."""
    edges = folder / "edges.txt"
    topology = f'{{"class_path": "EdgeList", "init_args": {{"path": "{edges}", "directed": true}}}}'
    settings = [f"decentralized.topology={topology}", "trainer.logger=false"]
    cli = study.configure(folder, "across", seed, settings, keep=False)
    cohort, data, seen = cli.model, cli.datamodule, Diagnostics(folder=folder)
    names = cohort.names
    pairs = [(a, b) for i, a in enumerate(names) for b in names if a != b and i != silent]
    edges.write_text("\n".join(f"{a} {b}" for a, b in pairs))
    if silent is None:
        cli.trainer.callbacks.append(seen)
    cli.trainer.fit(cohort, datamodule=data)
    losses = []
    for name in cohort.names:
        samples = data.private(name, "test")
        test = take_private(samples, torch.arange(len(samples)), 0)
        with torch.no_grad():
            logits = cohort.student(name).eval().predict(test.x).logits
        losses.append(cross_entropy(logits, test.y).mean())
    return Trained(names, torch.stack(losses), seen.influence)


def main() -> None:
    """Write ``influence.csv``, a line a seed and pair, and print the rank correlations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/influence"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    study = Study.read(ROOT / "configs/study/headline.yaml")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            names, losses, influence = train(study, seed, Path(folder))
            assert influence is not None
            missed = [train(study, seed, Path(folder), j).losses - losses for j in range(len(names))]
        effect = torch.stack(missed, 1)  # [listeners, teachers]
        others = ~torch.eye(len(names), dtype=torch.bool)
        pairs = spearmanr(influence[others], effect[others])
        means = [m.masked_fill(~others, 0).sum(0) / (len(names) - 1) for m in (influence, effect)]
        teachers = spearmanr(*means)
        print(
            f"seed {seed}: teachers {teachers.statistic:.2f} (p {teachers.pvalue:.3f}),"
            f" pairs {pairs.statistic:.2f} (p {pairs.pvalue:.3f})",
            flush=True,
        )
        rows += [
            (seed, names[k], names[j], f"{influence[k, j]:.5f}", f"{effect[k, j]:.5f}")
            for k, j in others.nonzero().tolist()
        ]
        with (options.out / "influence.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("seed", "listener", "teacher", "influence", "loss_without"))
            writer.writerows(rows)


if __name__ == "__main__":
    main()
