"""A round of a hybrid on any data: knowledge among all peers, weights within a modality."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PeerDataModule
from mmkd.federated import FedAvg
from mmkd.knowledge import SharedLogits
from mmkd.schedule import Schedule
from mmkd.topology import Star
from tests.tiny import trainer

WIDE = 4
"""Bytes of a number."""


def check_a_round(data: PeerDataModule, fleets: Mapping[str, Fleet]) -> None:
    """Four local steps, knowledge after two of them, weights after all; then nothing is left to be taught.

    Through a hub every payload goes up once and down once; afterwards the peers of a fleet are one.
    """
    cohort = Cohort(dict(fleets), data.num_classes, vectorize="always")
    callback = DecentralizedCallback(
        SharedLogits(samples="all"),
        FedAvg(among="modality"),
        Star(),
        Schedule(local_steps=4, knowledge_every=2),
    )
    trainer(callback, max_epochs=1).fit(cohort, datamodule=data)
    students = {name: cohort.student(name) for name in cohort.names}
    weights = sum(p.numel() for student in students.values() for p in student.parameters())
    logits = len(data.public_reader("train")) * data.num_classes * len(students)
    assert callback.ledger.total("weights") == 2 * WIDE * weights
    assert callback.ledger.total("logits") == 2 * WIDE * logits
    for fleet in fleets:
        first, *others = (s.state_dict() for name, s in students.items() if name.split("/")[0] == fleet)
        personal = students[f"{fleet}/0"].personal
        shared = [name for name in first if name not in personal]
        assert shared
        for other in others:
            for name in shared:
                torch.testing.assert_close(first[name], other[name], rtol=0, atol=0)
    assert cohort.metrics.keys() == students.keys()
