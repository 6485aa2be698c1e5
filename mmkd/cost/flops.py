"""FLOPs of a student per sample, from torch's own counter."""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from mmkd.functional.random import keyed
from mmkd.students.base import Student
from mmkd.types import Batch


class Flops(NamedTuple):
    """FLOPs per sample. Torch counts matrix products and convolutions; a multiply-add is two."""

    train: float  # forward and backward of the private loss
    predict: float  # forward alone


def count_flops(student: Student, batch: Batch) -> Flops:
    """Count the FLOPs of a copy of the student on a batch, of which it reads at most four samples."""
    size = min(4, len(batch.ids))
    y = None if batch.y is None else batch.y[:size]
    labelled = None if batch.labelled is None else batch.labelled[:size]
    x = tree_map(lambda t: t[:size], batch.x)
    small = Batch(x, y, batch.ids[:size], batch.key, labelled=labelled)
    probe = copy.deepcopy(student).train()
    probe._trainer = student._trainer  # which a copy does not have, and which says that it is in a cohort
    with keyed(batch.key, student.device):
        with FlopCounterMode(display=False) as train:
            probe.private_loss(small).backward()
        with FlopCounterMode(display=False) as predict:
            probe.predict(small.x)
    return Flops(train.get_total_flops() / size, predict.get_total_flops() / size)
