"""Unstructured pruning: the smallest weights become zero, which only a compressed file is smaller by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.utils import prune

from mmkd.bounds import BelowOne, bounded
from mmkd.edge.compression.base import Healing, Step, layers
from mmkd.edge.compression.gradual import stages
from mmkd.students.base import Student


@bounded
class Sparse(Step):
    """Sets the smallest weights of all layers together to zero, and keeps them there.

    The file and its time stay as they are, for onnxruntime multiplies by zeros as by other numbers.

    Args:
        share: of the layers' weights that are zero, rounded to whole weights.
    """

    def __init__(self, share: BelowOne) -> None:
        self.share = share

    def __call__(self, healing: Healing, steps: int) -> None:
        """Set some to zero, learn, and set more."""
        healing.kept.insert(0, zeros_stay)  # before weights are rounded, which makes others of them
        for share, after in stages(self.share, steps):
            weights = [(layer, "weight") for _, layer in layers(healing.student, heads=True)]
            prune.global_unstructured(weights, prune.L1Unstructured, amount=share)
            for layer, name in weights:
                prune.remove(layer, name)
            healing.learn(after)


@contextmanager
def zeros_stay(student: Student) -> Iterator[None]:
    """While a student learns: weights that are zero get no gradient, by which an optimizer leaves them."""
    hooks = []
    for _, layer in layers(student, heads=True):
        there = layer.weight.detach() != 0
        hooks.append(
            layer.weight.register_hook(lambda gradient, there=there: torch.where(there, gradient, 0))
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
