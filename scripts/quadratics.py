"""Repeat the quadratic experiments of SCAFFOLD (figure 3) and FedNova (figure 2) through ``Trainer.fit``.

SCAFFOLD: two peers, f1 = x^2 + G x and f2 = -G x, whose mean x^2 / 2 does not depend on the dissimilarity
G; one learning rate for all methods. FedNova: 30 peers, F_i = |x - e_i|^2 / 2 with e_i ~ N(0, 0.01 I), rate
0.05, which falls to a fifth after half and after three quarters of the rounds. Gradients are of all samples,
and every peer takes part in every round. What the papers' texts leave open is chosen here: SCAFFOLD's two
functions (in the form of its lower bound), the start, the dimension, how uneven work is drawn, the number of
rounds, and one rate instead of one tuned for each method (a tuned rate ends SGD in one step).

    python scripts/quadratics.py --out docs
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from lightning.pytorch import Callback, Trainer
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from datamodules.quadratics import Point, Quadratics
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import Aggregation, FedAvg, FedNova, FedProx, Scaffold
from mmkd.palette import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION
from mmkd.schedule import Schedule
from mmkd.topology import Star

Work = int | dict[str, Any]


class Track(Callback):
    """Records the point at which the hub is after every round, and sets the learning rate of the next one."""

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates, self.places = list(rates), list[Tensor]()

    def on_train_batch_start(self, trainer: Trainer, cohort: Any, *args: Any) -> None:
        """Set the learning rate of a round, which is one block."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rates[len(self.places)]

    def on_train_batch_end(self, trainer: Trainer, cohort: Any, *args: Any) -> None:
        """Record the point of the first peer, which is that of the hub after a round."""
        self.places.append(cohort.axis.weights(cohort.names[:1], buffers=False)["w"][0])


def distances(
    samples: Float[Tensor, "peers 3 dim"],
    start: Float[Tensor, " dim"],
    aggregation: Aggregation,
    work: Work,
    rates: Sequence[float],
) -> list[float]:
    """|x - x*| before the first round and after each, as many rounds as there are ``rates``.

    Args:
        samples: curvature, centre and slope of each peer.
        start: the point at which every peer begins.
        aggregation: the method.
        work: local steps, as ``Schedule`` takes them.
        rates: the learning rate of each round.
    """
    curvature, centre, slope = samples.unbind(1)
    optimum = (curvature * centre - slope).sum(0) / curvature.sum(0)
    most = work if isinstance(work, int) else max(w if isinstance(w, int) else w[1] for w in work.values())
    schedule = Schedule(local_steps=work, block=most, rounds_per_epoch=len(rates))
    aggregation.among = "all"
    track = Track(rates)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[DecentralizedCallback(None, aggregation, Star(), schedule), track],
    )  # fmt: skip
    sgd = lambda p: torch.optim.SGD(p, lr=rates[0])  # noqa: E731  # a factory, as a configuration would give
    fleet = Fleet(lambda n: Point(start, optimizer=sgd), len(samples))
    data = Quadratics([peer[None] for peer in samples], batch_size=1)
    trainer.fit(Cohort({"q": fleet}, 2, vectorize="always"), datamodule=data)
    return [float((x - optimum).norm()) for x in [start, *track.places]]


def scaffold(dissimilarity: float, rounds: int = 80, rate: float = 0.1) -> dict[str, list[float]]:
    """Distances of a panel of SCAFFOLD's figure 3, by method."""
    samples = torch.zeros(2, 3, 1, dtype=torch.float64)
    samples[0, 0] = 2.0  # f1 = 2 (x - 0)^2 / 2 + G x
    samples[:, 2, 0] = torch.tensor([dissimilarity, -dissimilarity])
    start, rates = torch.ones(1, dtype=torch.float64), [rate] * rounds
    ways: dict[str, tuple[Aggregation, int]] = {
        "SGD": (FedAvg(), 1),
        "FedAvg, K = 2": (FedAvg(), 2),
        "FedAvg, K = 10": (FedAvg(), 10),
        "SCAFFOLD, K = 2": (Scaffold("mean"), 2),
        "SCAFFOLD, K = 10": (Scaffold("mean"), 10),
    }
    return {name: distances(samples, start, how, steps, rates) for name, (how, steps) in ways.items()}


def fednova(work: Work, rounds: int = 80, peers: int = 30, dim: int = 30) -> dict[str, list[float]]:
    """Distances of a panel of FedNova's figure 2, by method."""
    stream = torch.Generator().manual_seed(0)
    samples = torch.zeros(peers, 3, dim, dtype=torch.float64)
    samples[:, 0] = 1.0
    samples[:, 1] = 0.1 * torch.randn(peers, dim, generator=stream, dtype=torch.float64)
    rates = [0.05 / 5 ** ((r >= rounds // 2) + (r >= 3 * rounds // 4)) for r in range(rounds)]
    start = torch.ones(dim, dtype=torch.float64)
    ways: dict[str, Aggregation] = {
        "FedAvg": FedAvg(),
        "FedProx, mu = 1": FedProx(mu=1.0),
        "FedNova": FedNova(),
        "SCAFFOLD": Scaffold("mean"),
    }
    return {name: distances(samples, start, how, work, rates) for name, how in ways.items()}


def uneven(peers: int = 30) -> dict[str, int]:
    """Local steps of each peer, between 1 and 96 with a mean of 30, of which few are large: 96 u^2.2."""
    places = torch.linspace(0, 1, peers) ** 2.2
    return {f"q/{i}": max(1, round(96 * float(u))) for i, u in enumerate(places)}


def draw(panels: Sequence[tuple[str, dict[str, list[float]]]], colours: Sequence[str], file: Path) -> None:
    """Draw panels side by side, with distances on a logarithmic axis."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), sharey=True)
    for place, (title, curves) in zip(axes, panels, strict=True):
        for (name, curve), colour in zip(curves.items(), colours, strict=True):
            style = {"color": colour, "linestyle": "--" if name == "SGD" else "-", "linewidth": 1.8}
            place.semilogy([max(d, 1e-12) for d in curve], label=name, **style)
        place.set(title=title, xlabel="Round")
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("Distance to the optimum")
    axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Run both experiments, print where every method ends, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    first = [(f"Gradient dissimilarity G = {g}", scaffold(float(g))) for g in (1, 10, 100)]
    draw(first, (BLACK, ORANGE, VERMILION, SKY, BLUE), out / "scaffold_quadratics.png")
    second = [
        ("30 local steps each", fednova(30)),
        ("1 to 96 local steps, uneven", fednova(uneven())),
        ("1 to 59, drawn every round", fednova({"q": [1, 59]})),
    ]
    draw(second, (VERMILION, ORANGE, GREEN, BLUE), out / "fednova_quadratics.png")
    for title, curves in [*first, *second]:
        print(title)
        for name, curve in curves.items():
            there = next((r for r, d in enumerate(curve) if d <= 1e-3 * curve[0]), None)
            print(
                f"  {name:18} ends {curve[-1]:9.2e} from the optimum; a thousandth of the way: round {there}"
            )
    print(f"drawn: {out / 'scaffold_quadratics.png'}, {out / 'fednova_quadratics.png'}")


if __name__ == "__main__":
    main()
