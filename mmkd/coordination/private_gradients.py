"""Gradients of peers on their own samples, at weights that an aggregation chooses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch

from mmkd.cohort.peers import Peers
from mmkd.coordination.oracle import AskedOracle
from mmkd.data.base import PeerData
from mmkd.data.blocks import Reading, sweep
from mmkd.functional.random import key
from mmkd.functional.trees import Tree, add, pick, put, scale_rows_
from mmkd.ledger import Ledger
from mmkd.types import Batches, PeerName


class PrivateGradients:
    """Differentiates private losses, and counts what that costs.

    Args:
        peers: of the cohort.
        data: holds their samples.
        ledger: counts what they compute.
        oracle: teaches peers on their own samples, if there is one.
    """

    def __init__(
        self,
        peers: Peers,
        data: PeerData,
        ledger: Ledger,
        oracle: AskedOracle | None,
    ) -> None:
        self._peers, self._data, self._ledger, self._oracle = peers, data, ledger, oracle

    def on(self, names: Sequence[PeerName], batches: Sequence[Batches], at: Tree) -> Tree:
        """Gradients of ``names`` on their batches, which may hold other peers beside them.

        Args:
            names: peers.
            batches: of private samples.
            at: weights ``[1, ...]``, the same for all.
        """
        wanted = set(names)
        for same in batches:
            for peer in wanted.intersection(same.peers):
                self._ledger.compute(peer, same.size * self._peers.everybody[peer].train)
        return self._peers.axis.gradients_at(names, batches, at, self._peers.accumulate)

    def full(self, names: Sequence[PeerName], at: Tree, round: int) -> Tree:
        """Gradients of ``names``, each over all its samples, batch by batch, in training mode."""
        data, readings = self._data, {}
        for name in names:
            stream = key(data.seed, self._peers.ids[name], "full", round)
            readings[name] = sweep(data.reader(name, "train"), data.batch_size, stream)
        shares = zip_longest(*(_shares(reading) for reading in readings.values()))
        total: Tree = {}
        for batches, share in zip(self._peers.axis.side_by_side(readings), shares, strict=True):
            here = [i for i, part in enumerate(share) if part is not None]
            batches = [self._peers.to_device(same) for same in batches]
            if self._oracle is not None:
                batches = [self._oracle.beside(same, round) for same in batches]
            part = self.on([names[i] for i in here], batches, at)
            scale_rows_(part, torch.tensor([share[i] for i in here], dtype=torch.float64))
            if not total:
                total = part  # every peer has a first batch
            else:
                put(total, torch.tensor(here), add(pick(total, torch.tensor(here)), part))
        return total


def _shares(reading: Reading) -> list[float]:
    """Of each batch, what share it has of the samples over which the loss is a mean."""
    labelled = reading.batch.labelled
    if labelled is None:
        return [size / len(reading.batch.ids) for size in reading.sizes]
    return [float(part.sum() / labelled.sum().clamp(min=1)) for part in labelled.split(reading.sizes)]
