"""Statements about classes: for each class the mean of a peer's predictions on its private samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.cohort.peers import Peers
from mmkd.coordination.exchange import Speech
from mmkd.data.base import PeerData
from mmkd.data.blocks import sweep
from mmkd.functional.random import key
from mmkd.knowledge.base import Statement, Statements
from mmkd.types import PeerName


@torch.no_grad()
def class_means(
    peers: Peers, data: PeerData, knowledge: Statements, names: Sequence[PeerName], tick: int
) -> list[Speech]:
    """Mean statements of each peer, in evaluation mode; it is silent about classes that it lacks."""
    readings = {}
    for name in names:
        stream = key(data.seed, peers.ids[name], "prototypes", tick)
        readings[name] = sweep(data.reader(name, "train"), data.batch_size, stream)
    sums: dict[PeerName, dict[str, Statement]] = {name: {} for name in names}
    with peers.evaluating():
        for batches in [peers.to_device(same) for step in peers.axis.side_by_side(readings) for same in step]:
            assert batches.y is not None
            predicted = peers.axis.group_of(batches.peers)[1].predict_own(batches)
            for statement, (values, logits) in knowledge.speak(predicted).items():
                for i, (name, value, y) in enumerate(zip(batches.peers, values, batches.y, strict=True)):
                    blank = value.new_zeros(data.num_classes, value.shape[-1])
                    total = sums[name].setdefault(statement, Statement(blank, logits))
                    if batches.labelled is not None:
                        y, value = y[batches.labelled[i]], value[batches.labelled[i]]
                    total.values.index_add_(0, y, value)
    return [_mean(name, sums[name], data.label_counts(name).to(peers.device)) for name in names]


def _mean(name: PeerName, sums: dict[str, Statement], count: Tensor) -> Speech:
    """One peer's sums over its samples of each class, divided by the number of samples."""
    share = count.clamp(min=1)[:, None]
    means = {n: total._replace(values=(total.values / share)[None]) for n, total in sums.items()}
    return Speech([name], means, (count > 0)[None])
