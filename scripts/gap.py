"""Measure how much more accurate students are on training than on test samples, by temperature and alpha.

The peers of the headline study distil through a hub. The private gap is the accuracy of a peer on its own
private samples, less its accuracy on test samples with its own label frequencies. The public gap is the
accuracy on the public samples, whose labels nobody trained with, less that on test samples.

    python scripts/gap.py --out docs
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from itertools import product
from pathlib import Path
from statistics import fmean

import torch

from mmkd.data.samples import take_private
from mmkd.tables import write_rows
from mmkd.tradeoff.study import Study

ROOT = Path(__file__).parents[1]
KNOWLEDGE = "decentralized.knowledge.init_args"
TEMPERATURES, ALPHAS = (1.0, 2.0, 4.0), (0.1, 0.3, 0.5, 0.7, 0.9)


def measure(study: Study, seed: int, temperature: float, alpha: float) -> dict[str, float]:
    """Accuracies and gaps after training, as means over peers."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"{KNOWLEDGE}.temperature={temperature}", f"{KNOWLEDGE}.alpha={alpha}"]
        cli = study.configure(Path(folder), "across", seed, [*settings, "trainer.logger=false"], keep=False)
        cohort, data = cli.model, cli.datamodule
        cli.trainer.fit(cohort, datamodule=data)
        cli.trainer.test(cohort, datamodule=data, verbose=False)
    labels, public = data.public_labels(), data.public("train")
    own, seen = [], []
    for name in cohort.names:
        student, samples = cohort.student(name).eval(), data.private(name, "train")
        batch = take_private(samples, torch.arange(len(samples)), 0)
        with torch.no_grad():
            said = student.predict(batch.x).logits.argmax(-1)
            heard = student.predict(public.views[data.peers[name]]).logits.argmax(-1)
        own.append((said == batch.y).double().mean().item())
        seen.append((heard == labels).double().mean().item())
    tested = {
        kind: fmean(m[kind] for m in cohort.metrics.values())
        for kind in ("private_accuracy", "shared_accuracy")
    }
    return {
        "shared_test": tested["shared_accuracy"],
        "private_train": fmean(own),
        "private_gap": fmean(own) - tested["private_accuracy"],
        "public_train": fmean(seen),
        "public_gap": fmean(seen) - tested["shared_accuracy"],
    }


def main() -> None:
    """Write ``gap.csv``, with a row for each temperature and alpha."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/gap"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    study = Study.read(ROOT / "configs/study/headline.yaml")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for temperature, alpha in product(TEMPERATURES, ALPHAS):
        found = [measure(study, seed, temperature, alpha) for seed in options.seeds]
        means = {name: round(fmean(one[name] for one in found), 4) for name in found[0]}
        rows.append({"temperature": temperature, "alpha": alpha, **means})
        print(rows[-1], flush=True)
        with (options.out / "gap.csv").open("w", newline="") as file:
            write_rows(file, [rows[0], *(row.values() for row in rows)])


if __name__ == "__main__":
    main()
