"""Eight bits: students that learn while their weights and activations are rounded as the device will."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from mmkd.edge.compression.base import Healing, Step, layers
from mmkd.students.base import Student
from mmkd.types import ConfigError


class Quantised(Step):
    """Whole numbers of 8 bits after training; the exporter makes them (``mmkd.edge.formats.Int8``)."""

    heals = False

    def __call__(self, healing: Healing, steps: int) -> None:
        """Nothing: it is the file that has 8 bits."""


class Aware(Step):
    """Lets the student learn while all is rounded that the file in 8 bits will round (Jacob et al. 2018)."""

    def __call__(self, healing: Healing, steps: int) -> None:
        """Learn, and whatever is learned later, in 8 bits."""
        healing.kept.append(in_8_bits)
        healing.learn(steps)


@contextmanager
def in_8_bits(student: Student) -> Iterator[None]:
    """While a student learns or is asked: torchao rounds as onnxruntime's static quantisation does.

    That is what layers read and give, by the least and the greatest number so far (a moving average), and
    their weights, each channel by its own greatest one. Gradients go through the rounding as if it were
    none.
    """
    try:
        from torchao.quantization.pt2e import fake_quantize, observer
    except ImportError as error:
        raise ConfigError(
            f"8 bits need a package that is missing ({error}): install mmkd[compression]"
        ) from error

    def rounded(kind: Any, least: int, scheme: torch.qscheme, **more: Any) -> Any:
        made: Any = fake_quantize.FakeQuantize(
            kind, quant_min=least, quant_max=127, dtype=torch.int8, qscheme=scheme, **more
        )
        return made

    def activation() -> Any:
        return rounded(observer.MovingAverageMinMaxObserver, -128, torch.per_tensor_affine)

    changed, hooks = list[nn.Module](), []
    for module in [*student.modules()]:
        if isinstance(module, nn.Embedding):  # of which a device looks up rows, all of one scale
            parametrize.register_parametrization(
                module, "weight", rounded(observer.MinMaxObserver, -127, torch.per_tensor_symmetric)
            )
            changed.append(module)
    for _, layer in [*layers(student, heads=True)]:
        weight = rounded(observer.PerChannelMinMaxObserver, -127, torch.per_channel_symmetric, ch_axis=0)
        parametrize.register_parametrization(layer, "weight", weight)
        changed.append(layer)
        reads, gives = activation(), activation()
        hooks.append(layer.register_forward_pre_hook(lambda _, given, own=reads: own(given[0])))
        hooks.append(layer.register_forward_hook(lambda _, given, found, own=gives: own(found)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in changed:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
