"""Compare the influence matrix with the loss of listeners when each teacher in turn is silent.

The peers of the headline study distil over a complete graph. One run measures the influence of each
teacher on each listener as it trains (``mmkd.callbacks.Diagnostics``, on validation samples). Then all peers
train again once per teacher, who listens but says nothing; the cost to a listener is the rise of its *test*
loss. All of this is done twice, from two draws of initial weights: the agreement of the two retrainings is an
upper bound on what any matrix can reach.

In a second cohort some peers own private samples with wrong labels: none, 3, 6 and 9 in ten of the first,
second, third and fourth peer of a modality.

    python scripts/influence.py --out docs
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from mmkd.callbacks import Diagnostics
from mmkd.callbacks.diagnostics import CAPTIONS
from mmkd.data.samples import Samples, take_private
from mmkd.diagnostics.heat_map import heat_map
from mmkd.functional.classification import cross_entropy
from mmkd.functional.random import generator
from mmkd.tables import write_rows
from mmkd.tradeoff.study import Study

ROOT = Path(__file__).parents[1]
COHORTS = {"as it is": (0.0, 0.0, 0.0, 0.0), "wrong labels": (0.0, 0.3, 0.6, 0.9)}
"""Share of wrong labels of the peers of a modality, by the name of a cohort."""
DRAWS = 2
"""Draws of initial weights from which everything is trained."""


class Trained(NamedTuple):
    """The results of a run."""

    names: list[str]
    losses: Float[Tensor, " peers"]  # on test samples
    influence: Float[Tensor, "listeners teachers"] | None  # None if somebody was silent


def mislabel(private: Callable[[str, str], Any], shares: dict[str, float], seed: int) -> Any:
    """A function that returns what ``private`` returns, with a share of the training labels wrong."""

    def samples(peer: str, split: str) -> Any:
        right = private(peer, split)
        if split != "train":
            return right
        stream = generator(seed, "wrong labels", peer)
        wrong = torch.rand(len(right), generator=stream) < shares[peer]
        other = (right.y + torch.randint(1, 10, right.y.shape, generator=stream)) % 10
        return Samples(right.x, torch.where(wrong, other, right.y), right.ids)

    return samples


def train(
    study: Study, cohort_name: str, seed: int, draw: int, folder: Path, silent: int | None = None
) -> Trained:
    """Train all peers, with every teacher or with one of them silent."""
    edges = folder / "edges.txt"
    topology = f'{{"class_path": "EdgeList", "init_args": {{"path": "{edges}", "directed": true}}}}'
    settings = [f"decentralized.topology={topology}", "trainer.logger=false"]
    cli = study.configure(folder, "across", seed, settings, keep=False)
    cohort, data, seen = cli.model, cli.datamodule, Diagnostics(folder=folder)
    names = cohort.names
    if draw:
        other = study.configure(folder, "across", seed + 1000 * draw, settings, keep=False)
        cohort.load_state_dict(other.model.state_dict())
    shares = {name: COHORTS[cohort_name][int(name.rpartition("/")[2])] for name in names}
    data.private = mislabel(data.private, shares, seed)
    pairs = [(a, b) for i, a in enumerate(names) for b in names if a != b and i != silent]
    edges.write_text("\n".join(f"{a} {b}" for a, b in pairs))
    if silent is None:
        trainer: Any = cli.trainer  # Lightning sets its callbacks at run time, and its types lack them
        trainer.callbacks.append(seen)
    cli.trainer.fit(cohort, datamodule=data)
    losses = []
    for name in names:
        samples = data.private(name, "test")
        test = take_private(samples, torch.arange(len(samples)), 0)
        assert test.y is not None
        with torch.no_grad():
            logits = cohort.student(name).eval().predict(test.x).logits
        losses.append(cross_entropy(logits, test.y).mean())
    return Trained(names, torch.stack(losses), seen.influence)


def rank(a: Float[Tensor, "listeners teachers"], b: Float[Tensor, "listeners teachers"]) -> str:
    """Rank correlations of two matrices: over pairs, and over teachers (each the mean over its listeners)."""
    others = ~torch.eye(len(a), dtype=torch.bool)
    pairs = spearmanr(a[others], b[others])
    teachers = spearmanr(*(m.masked_fill(~others, 0).sum(0) for m in (a, b)))
    return (
        f"teachers {teachers.statistic:.2f} (p {teachers.pvalue:.3f}),"
        f" pairs {pairs.statistic:.2f} (p {pairs.pvalue:.3f})"
    )


def main() -> None:
    """Write ``influence.csv``, with a row a pair and training, and heat maps; print the rank correlations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/influence"))
    parser.add_argument("--cohorts", nargs="+", default=list(COHORTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    study = Study.read(ROOT / "configs/study/headline.yaml")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for kind in options.cohorts:
        for seed in options.seeds:
            effects = []
            for draw in range(DRAWS):
                with tempfile.TemporaryDirectory() as folder:
                    this = (study, kind, seed, draw, Path(folder))
                    names, losses, influence = train(*this)
                    assert influence is not None
                    if seed == draw == 0:
                        modalities = {name: name.partition("/")[0] for name in names}
                        figure = heat_map(influence, modalities, diverging=True, label=CAPTIONS["influence"])
                        figure.savefig(options.out / f"influence_{kind.replace(' ', '_')}.png", dpi=180)
                    missed = [train(*this, j).losses - losses for j in range(len(names))]
                effects.append(torch.stack(missed, 1))  # [listeners, teachers]
                print(f"{kind}, seed {seed}, draw {draw}: {rank(influence, effects[-1])}", flush=True)
                rows += [
                    (
                        kind,
                        seed,
                        draw,
                        names[k],
                        names[j],
                        f"{influence[k, j]:.5f}",
                        f"{effects[-1][k, j]:.5f}",
                    )
                    for k in range(len(names))
                    for j in range(len(names))
                    if k != j
                ]
                with (options.out / "influence.csv").open("w", newline="") as file:
                    head = ("cohort", "seed", "draw", "listener", "teacher", "influence", "loss_without")
                    write_rows(file, [head, *rows])
            print(f"{kind}, seed {seed}, retraining against retraining: {rank(*effects)}", flush=True)


if __name__ == "__main__":
    main()
