"""Healing: local steps on a peer's private samples while its student is compressed, and lessons beside."""

from __future__ import annotations

from contextlib import ExitStack
from math import cos, pi
from typing import Any

import torch

from mmkd.data.augmenting import augmented_alone
from mmkd.data.base import PeerData
from mmkd.data.blocks import PrivateBatches
from mmkd.edge.compression.base import Healing, Keep
from mmkd.edge.compression.lessons import Lesson
from mmkd.functional.random import keyed
from mmkd.students.base import Student
from mmkd.types import Batch, PeerName

LESSON = 0.5
"""Weight of the lesson's loss; the private loss has the rest."""
CLIP = 1.0
"""Greatest norm of a gradient: a student that has just lost channels makes great ones."""


class PrivateHealing(Healing):
    """Steps on private batches, by the student's own optimizer, whose rate sinks to zero as half a cosine.

    Each time that the student learns it has a new optimizer, for it may have other parameters by then. Its
    own schedule is left out. Random numbers and samples are those of its first local steps in training.

    Args:
        student: learns in place.
        data: hold its samples.
        peer: whose it is.
        lesson: what others teach; nobody does, if None.
        steps: local steps in all, over which the rate sinks.
        rate: factor of the optimizer's learning rate.
    """

    def __init__(
        self,
        student: Student,
        data: PeerData,
        peer: PeerName,
        lesson: Lesson | None,
        *,
        steps: int,
        rate: float,
    ) -> None:
        self.student, self.kept = student, list[Keep]()
        self.example = data.reader(peer, "train").batch(torch.arange(2) % data.samples_of(peer), 0).x
        self._batches, self._lesson = PrivateBatches(data, peer), lesson
        self._data, self._modality = data, data.peers[peer]
        self._steps, self._rate, self._taken = steps, rate, 0

    def learn(self, steps: int) -> None:
        """Take so many local steps."""
        student = self.student
        if steps == 0:
            return
        with ExitStack() as stack, torch.enable_grad():
            for keep in self.kept:
                stack.enter_context(keep(student))
            configured: Any = student.configure_optimizers()
            optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
            rates = [group["lr"] for group in optimizer.param_groups]
            student.train()
            for _ in range(steps):
                sunk = self._rate * (1 + cos(pi * self._taken / self._steps)) / 2
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * sunk
                optimizer.zero_grad()
                batch = self._batch(self._taken)
                with keyed(batch.key, student.device):
                    loss = student.private_loss(batch)
                    if self._lesson is not None:
                        loss = (1 - LESSON) * loss + LESSON * self._lesson(student, batch, self._taken)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
                optimizer.step()
                self._taken += 1
        student.eval()

    def _batch(self, step: int) -> Batch:
        return augmented_alone(self._batches[step], self._modality, self._data.augment)
