"""The contract of an aggregation, checked on a tiny cohort."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from mmkd.callbacks.decentralized import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.federated import Aggregation
from mmkd.functional.random import generator
from mmkd.participation import Participation, Sampled
from mmkd.schedule import Schedule
from mmkd.students import Classifier
from mmkd.testing.require import require
from mmkd.testing.transports import CountingTransport
from mmkd.topology import DirectedCycle, Ring, Star, Topology
from mmkd.types import Batch, ConfigError

PEERS = 5
"""Peers of the tiny cohort."""
CLASSES = 2
"""Classes of its data."""
FEATURES = 3
"""Features of a sample."""
Case = tuple[str, Topology, Participation | None]
"""Name, graph and participation of a case."""


def check_aggregation(make: Callable[..., Aggregation], *, local_steps: int = 1) -> None:
    """Check an aggregation among five tiny peers on a ring, a directed cycle, a hub, and in sampled rounds.

    It may refuse some of these cases (``ConfigError``), but not all. A peer's weights change nothing at
    peers that do not hear it; every byte that the ledger counts went through the transport; messages that
    are encoded as bytes give the same weights; a run that is resumed ends like one that was not, so all
    that is remembered is in ``state``; weights that all peers hold and nobody trains keep about their size.

    Args:
        make: builds the aggregation; it is given ``among="all"``.
        local_steps: of a round.

    Raises:
        AssertionError: one of these does not hold; the message says which.
    """
    name, worked = getattr(make, "__name__", "the aggregation"), 0
    cases: list[Case] = [
        ("a ring", Ring(), None),
        ("a directed cycle", DirectedCycle(), None),
        ("a hub", Star(), None),
        ("a hub in sampled rounds", Star(), Sampled(count=3)),
        ("a ring in sampled rounds", Ring(), Sampled(count=3)),
    ]
    with quiet():
        for case in cases:
            try:
                plain = Run(make, case, local_steps)
            except ConfigError:
                continue
            worked += 1
            _check_case(name, make, case, local_steps, plain)
    require(worked > 0, f"{name} works on no graph: neither on a ring nor through a hub")


def _check_case(
    name: str, make: Callable[..., Aggregation], case: Case, local_steps: int, plain: Run
) -> None:
    where = case[0]
    counted, ledger = plain.transport.nbytes, plain.callback.ledger.total()
    require(
        counted == ledger, f"{name}: on {where} the ledger counts {ledger} bytes and {counted} were carried"
    )
    carried = Run(make, case, local_steps, serialise=True)
    same = all(torch.equal(carried.weights[n], w) for n, w in plain.weights.items())
    require(same, f"{name}: on {where} weights are others once they cross a border")
    resumed = Run(make, case, local_steps, stop=1)
    same = all(torch.equal(resumed.weights[n], w) for n, w in plain.weights.items())
    require(
        same, f"{name}: on {where} a resumed run ends with other weights; keep what is remembered in state"
    )
    still = Run(make, case, local_steps, epochs=1, still=True)
    for n, w in still.weights.items():
        before, after = (float(rows.flatten(1).norm(dim=1).max()) for rows in (still.begun[n], w))
        require(
            after <= 2 * before + 1e-3,
            f"{name}: on {where} weights that all peers hold and nobody trains grow from {before:.3g} to"
            f" {after:.3g}: divide by the sum of the weights of those who are heard",
        )
    if _common(make):
        return  # all begin with equal weights, so none can be disturbed
    hears = plain.hears
    one = Run(make, case, local_steps, epochs=1)
    for peer in range(PEERS):
        other = Run(make, case, local_steps, epochs=1, disturbed=peer)
        for listener in (k for k in range(PEERS) if k != peer and not hears[k, peer]):
            same = all(torch.equal(other.weights[n][listener], w[listener]) for n, w in one.weights.items())
            require(
                same,
                f"{name}: on {where} what peer {peer} holds changes peer {listener}, which does not hear it:"
                " combine what round.reduce or round.mix gives, and not the rows of all",
            )


def _common(make: Callable[..., Aggregation]) -> bool:
    return make(among="all").agrees


class Points(Classifier):
    """A student with one layer."""

    modalities = ("point",)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, dim=FEATURES, optimizer=_sgd)
        self.scale = nn.Parameter(torch.ones(FEATURES))

    def embed(self, x: Tensor) -> Tensor:
        """The sample itself, each feature at its own scale."""
        return x * self.scale


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class Still(Points):
    """A student that learns nothing."""

    def private_loss(self, batch: Batch) -> Tensor:
        """Zero, whatever the labels."""
        return 0 * super().private_loss(batch)


class PointData(PeerDataModule):
    """Data of the tiny cohort: eight samples a peer."""

    num_classes = CLASSES
    modalities = ("point",)

    def private(self, peer: str, split: str) -> Samples:
        """Samples drawn from a stream of the peer's name."""
        stream = generator("points", peer)
        return Samples(torch.randn(8, FEATURES, generator=stream), torch.arange(8) % CLASSES)

    def public(self, split: str) -> PublicSamples:
        """Four public samples."""
        return PublicSamples({"point": torch.randn(4, FEATURES, generator=generator("public points"))})


class Run:
    """Two rounds of a tiny cohort.

    Args:
        make: builds the aggregation.
        case: name, graph and participation.
        local_steps: of a round.
        epochs: rounds.
        serialise: whether messages are encoded as bytes.
        stop: number of rounds after which the run ends, and another resumes it.
        disturbed: a peer that begins with other weights.
        still: whether all begin with equal weights and learn nothing.
    """

    def __init__(
        self,
        make: Callable[..., Aggregation],
        case: Case,
        local_steps: int,
        *,
        epochs: int = 2,
        serialise: bool = False,
        stop: int | None = None,
        disturbed: int | None = None,
        still: bool = False,
    ) -> None:
        self._student, self._still = Still if still else Points, still
        _, topology, participation = case
        self._factors = make, topology, participation, Schedule(local_steps=local_steps)
        self.transport = CountingTransport(serialise=serialise)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "stopped.ckpt"
            if stop is not None:
                self._fit(stop, disturbed).save_checkpoint(checkpoint)
            self._fit(epochs, disturbed, checkpoint if stop is not None else None)
        names = self.cohort.names
        self.weights = self.cohort.axis.weights(names, buffers=False)
        self.hears = topology.adjacency(names, 0)
        if topology.hub is not None:
            self.hears = ~torch.eye(PEERS, dtype=torch.bool)
        assert self.callback.coordinator is not None
        there = set(self.cohort.timetable.there(0))
        absent = [i for i, peer in enumerate(names) if peer not in there]
        self.hears[:, absent] = False
        self.hears[absent] = False if topology.hub is None else self.hears[absent]

    def _fit(self, epochs: int, disturbed: int | None, checkpoint: Path | None = None) -> Trainer:
        make, topology, participation, schedule = self._factors
        self.callback = DecentralizedCallback(
            None, make(among="all"), topology, schedule, self.transport, participation
        )
        shared = _common(make) or self._still
        self.cohort = Cohort(
            {"peers": Fleet(self._student, PEERS)},
            CLASSES,
            vectorize="always",
            init="shared" if shared else "own",
        )
        self.begun = self.cohort.axis.weights(self.cohort.names, buffers=False)
        if disturbed is not None:
            weights = self.cohort.axis.weights([self.cohort.names[disturbed]], buffers=False)
            self.cohort.axis.load_weights(
                [self.cohort.names[disturbed]], {n: 2 * w + 1 for n, w in weights.items()}
            )
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[self.callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(self.cohort, datamodule=PointData(batch_size=8), ckpt_path=checkpoint)
        return trainer


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's warnings, which are no use for a tiny cohort."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
