"""What peers say about classes: the mean of what they predict on their private samples of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.cohort.cohort import Cohort
from mmkd.coordination.exchange import Speech
from mmkd.data.base import PeerData
from mmkd.data.blocks import sweep
from mmkd.functional.random import key
from mmkd.knowledge.base import Knowledge
from mmkd.types import Batches, PeerName


@torch.no_grad()
def class_means(
    cohort: Cohort, data: PeerData, knowledge: Knowledge, names: Sequence[PeerName], tick: int
) -> list[Speech]:
    """Mean statements of each of ``names``, in evaluation mode; it is silent about classes that it lacks."""
    was_training = cohort.training
    cohort.groups.eval()
    readings = {}
    for name in names:
        stream = key(data.seed, cohort.ids[name], "prototypes", tick)
        readings[name] = sweep(data.private(name, "train"), data.batch_size, stream)
    sums: dict[PeerName, dict[str, Tensor]] = {name: {} for name in names}
    for same in [batches for step in cohort.axis.side_by_side(readings) for batches in step]:
        batches: Batches = cohort.transfer_batch_to_device(same, cohort.device, 0)
        predicted = cohort.axis.group_of(batches.peers)[1].predict_own(batches)
        for statement, values in knowledge.speak(predicted).items():
            for name, value, y in zip(batches.peers, values, batches.y, strict=True):
                blank = value.new_zeros(data.num_classes, value.shape[-1])
                sums[name].setdefault(statement, blank).index_add_(0, y, value)
    cohort.groups.train(was_training)
    speeches = []
    for name in names:
        count = data.label_counts(name).to(cohort.device)
        means = {n: (total / count.clamp(min=1)[:, None])[None] for n, total in sums[name].items()}
        speeches.append(Speech([name], means, (count > 0)[None]))
    return speeches
