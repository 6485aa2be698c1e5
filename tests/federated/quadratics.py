"""Worlds of peers whose losses are quadratics or planes, so that every round has a formula."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from datamodules.quadratics import Point, Quadratics
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import Aggregation, FedShuffle
from mmkd.participation import Participation
from mmkd.schedule import Schedule
from mmkd.topology import Star, Topology
from tests.tiny import sgd, trainer

DIM = 3


class World:
    """N peers with curvatures A and places B, ``[N, DIM]`` each, slopes K, and n_i equal samples.

    Args:
        peers: N.
        linear: no curvature, only slopes.
        seed: of the numbers.
    """

    def __init__(self, peers: int = 4, *, linear: bool = False, seed: int = 0) -> None:
        stream = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=stream, dtype=torch.float64)

        self.peers = peers
        self.A = torch.zeros(peers, DIM, dtype=torch.float64) if linear else 0.5 + draw(peers, DIM)
        self.B = 4 * draw(peers, DIM) - 2
        self.K = 2 * draw(peers, DIM) - 1 if linear else torch.zeros(peers, DIM, dtype=torch.float64)
        self.n = torch.arange(1, peers + 1) * 2
        self.p = self.n.double() / self.n.sum()
        self.start = 3 * draw(DIM)

    def gradient(self, w: Tensor) -> Tensor:
        """Of every peer at its row of ``w`` or at one point, ``[N, DIM]``."""
        return self.A * (w - self.B) + self.K

    def optimum(self, p: Tensor) -> Tensor:
        """Of sum p_i F_i."""
        return (p[:, None] * self.A * self.B).sum(0) / (p[:, None] * self.A).sum(0)

    def run(
        self,
        aggregation: Aggregation,
        *,
        rounds: int = 1,
        rate: float = 0.1,
        steps: int | Sequence[int] = 1,
        topology: Topology | None = None,
        participation: Participation | None = None,
        vectorize: Any = "always",
        init: Any = "shared",
        batch_size: int | None = None,
        schedule: dict[str, Any] | None = None,
        samples: Sequence[Tensor] | None = None,
        optimizer: Any = None,
        scheduler: Any = None,
        clip: float | None = None,
        extra: Sequence[Callback] = (),
        ckpt_path: Path | None = None,
    ) -> Outcome:
        """Train through ``Trainer.fit``, all rounds in one epoch.

        A peer's samples are equal, so without ``samples`` of its own the size of a batch makes no difference
        to local steps. Two then make one shape of all batches, where passes over the data are not counted.
        """
        aggregation.among = "all"
        if batch_size is None:
            passes = samples is not None or schedule is not None or isinstance(aggregation, FedShuffle)
            batch_size = 64 if passes else 2
        if not isinstance(steps, int):
            steps = {f"q/{i}": n for i, n in enumerate(steps)}
        callback = DecentralizedCallback(
            None, aggregation, topology or Star(),
            Schedule(**(schedule or {"local_steps": steps}), rounds_per_epoch=rounds),
            participation=participation,
        )  # fmt: skip
        student = {"optimizer": optimizer or sgd(rate), "scheduler": scheduler}

        def point(n: int) -> Point:
            return Point(torch.randn(DIM, dtype=torch.float64) if init == "own" else self.start, **student)

        cohort = Cohort(
            {"q": Fleet(point, self.peers)}, 2,
            vectorize=vectorize, init=init, clip=clip,
        )  # fmt: skip
        first = cohort.axis.weights(cohort.names, buffers=False)["w"]
        if samples is None:
            whole = torch.stack([self.A, self.B, self.K], 1)
            samples = [whole[i].expand(int(n), 3, DIM) for i, n in enumerate(self.n)]
        data = Quadratics(samples, batch_size=batch_size, drop_last=False)
        one = trainer(callback, *extra, max_epochs=1, limit_val_batches=0)
        one.fit(cohort, datamodule=data, ckpt_path=ckpt_path)
        return Outcome(cohort.axis.weights(cohort.names, buffers=False)["w"], first, callback)


class Outcome:
    """Weights of all peers after and before, ``[N, DIM]``, and the callback that made the difference."""

    def __init__(self, w: Tensor, first: Tensor, callback: DecentralizedCallback) -> None:
        self.w, self.first, self.callback = w, first, callback

    @property
    def state(self) -> dict[str, dict[str, Tensor]]:
        return self.callback.coordinator.federations[0].aggregation.state


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b.expand_as(a), rtol=tolerance, atol=tolerance)
