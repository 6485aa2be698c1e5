"""Low-rank factorisation: a layer becomes two thin ones, one behind the other."""

from __future__ import annotations

import torch
from torch import nn

from mmkd.bounds import BelowOne, bounded
from mmkd.edge.compression.base import Healing, Layer, Step, layers, parameters
from mmkd.functional.low_rank import factors, rank_of
from mmkd.students.base import Student
from mmkd.types import ConfigError

HALVINGS = 40
"""Of the interval in which the energy is looked for that leaves few enough parameters."""


@bounded
class LowRank(Step):
    """Replaces layers by two of lower rank, until a share of parameters has gone; then it learns.

    All layers keep the same share of the energy of their weight, the sum of its squared singular values; a
    layer stays whole where two would not be smaller. A convolution becomes one of fewer channels and one of a
    single moment or pixel.

    Args:
        share: of the parameters, at least, that go.
    """

    def __init__(self, share: BelowOne) -> None:
        self.share = share

    def __call__(self, healing: Healing, steps: int) -> None:
        """Factor the layers, and learn."""
        student = healing.student
        ranks = self._ranks(student)
        for name, layer in list(layers(student, heads=False)):
            if name in ranks:
                student.set_submodule(name, factored(layer, ranks[name]))
        healing.learn(steps)

    def _ranks(self, student: Student) -> dict[str, int]:
        """Of each layer that is replaced, with the most energy that leaves few enough parameters."""
        whole, values, saves = parameters(student), {}, {}
        for name, layer in layers(student, heads=False):
            if isinstance(layer, nn.Linear) or layer.groups == 1:
                matrix = layer.weight.detach().flatten(1)
                values[name], saves[name] = torch.linalg.svdvals(matrix), (matrix.numel(), sum(matrix.shape))

        def at(energy: float) -> dict[str, int]:
            ranks = {name: rank_of(own, energy) for name, own in values.items()}
            return {name: r for name, r in ranks.items() if r * saves[name][1] < saves[name][0]}

        def left(ranks: dict[str, int]) -> int:
            return whole - sum(saves[name][0] - r * saves[name][1] for name, r in ranks.items())

        wanted, low, high = (1 - self.share) * whole, 0.0, 1.0
        if left(at(low)) > wanted:
            raise ConfigError(
                f"lowrank:{self.share:g} cannot be reached: of {type(student).__name__} there are still"
                f" {left(at(low)):,} of {whole:,} parameters where all ranks are 1; give less"
            )
        for _ in range(HALVINGS if left(at(high)) > wanted else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if left(at(middle)) <= wanted else (low, middle)
        return at(low) if left(at(high)) > wanted else at(high)


def factored(layer: Layer, rank: int) -> nn.Sequential:
    """Two layers in place of one, whose product is the nearest of that rank."""
    first, second = empty_factors(layer, rank)
    out, into = factors(layer.weight.detach().flatten(1), rank)
    with torch.no_grad():
        first.weight.copy_(into.view_as(first.weight))
        second.weight.copy_(out.view_as(second.weight))
        if layer.bias is not None and second.bias is not None:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def empty_factors(layer: Layer, rank: int) -> tuple[Layer, Layer]:
    """The two layers that stand in place of one."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=bias)
    kind = type(layer)
    first = kind(
        layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False  # type: ignore[arg-type]  # sizes of its own kind
    )  # fmt: skip
    return first, kind(rank, layer.out_channels, 1, bias=bias)
