"""Eight bits: students that learn while their weights and activations are rounded as the device will."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
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
def in_8_bits(student: Student) -> Iterator[list[Any]]:
    """While a student learns or is asked: torchao rounds as onnxruntime's static quantisation does.

    That is what layers read and give, by the least and the greatest number so far (a moving average), and
    their weights, each channel by its own greatest one. Gradients go through the rounding as if it were
    none. What rounds is given, for whoever wants to look at it.
    """
    try:
        from torchao.quantization.pt2e import fake_quantize, observer
    except ImportError as error:
        raise ConfigError(
            f"8 bits need a package that is missing ({error}): install mmkd[compression]"
        ) from error

    def rounded(kind: Any, least: int, scheme: torch.qscheme, most: int = 127, **more: Any) -> Any:
        made: Any = fake_quantize.FakeQuantize(
            kind, quant_min=least, quant_max=most, dtype=torch.int8, qscheme=scheme, **more
        )
        roundings.append(made)
        return made

    def activation() -> Any:
        return rounded(observer.MovingAverageMinMaxObserver, -128, torch.per_tensor_affine)

    def weights(kind: Any, scheme: torch.qscheme, **more: Any) -> Any:
        # Of 7 bits, as the exporter asks for; of the weights as they are, and not as they have been.
        return rounded(kind, -64, scheme, 64, averaging_constant=1.0, **more)

    changed, hooks, roundings = list[nn.Module](), [], list[Any]()
    for module in [*student.modules()]:
        if isinstance(module, nn.Embedding):  # of which a device looks up rows, all of one scale
            rows = weights(observer.MovingAverageMinMaxObserver, torch.per_tensor_affine)
            parametrize.register_parametrization(module, "weight", rows)
            changed.append(module)
    for _, layer in [*layers(student, heads=True)]:
        weight = weights(
            observer.MovingAveragePerChannelMinMaxObserver, torch.per_channel_symmetric, ch_axis=0
        )
        parametrize.register_parametrization(layer, "weight", weight)
        changed.append(layer)
        reads, gives = activation(), activation()
        hooks.append(layer.register_forward_pre_hook(lambda _, given, own=reads: own(given[0])))
        hooks.append(layer.register_forward_hook(partial(_gives, gives)))
    try:
        yield roundings
    finally:
        for hook in hooks:
            hook.remove()
        for module in changed:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def _gives(rounding: Callable[[Tensor], Tensor], layer: nn.Module, given: Any, found: Tensor) -> Tensor:
    """What a layer gives, rounded: of sequences the product alone, to which a device adds the bias."""
    if isinstance(layer, nn.Linear) and found.dim() > 2 and layer.bias is not None:
        return rounding(found - layer.bias) + layer.bias
    return rounding(found)
