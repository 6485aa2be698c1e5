"""Normalisation of what students read: by constants, or by each peer's own samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmkd.bounds import Finite, Positive, bounded
from mmkd.names import near
from mmkd.students.base import Student
from mmkd.types import ConfigError, Views


@bounded
@dataclass(frozen=True)
class Constants:
    """Numbers that are known before anybody has data, such as those that weights were published with.

    Args:
        mean: that is subtracted from each channel, one number a channel, or one for all.
        std: by which it is then divided, likewise.
    """

    mean: list[Finite]
    std: list[Positive]


Normalised: TypeAlias = Literal["own"] | Constants | dict[str, Any]
"""How samples are normalised: by the peer's own training samples, or by constants."""


class Normalising(Student):
    """A student that calls ``normalise`` first of all when it embeds samples."""

    normalise: nn.Module

    def normalised(self, how: Normalised | None, channels: int) -> None:
        """Say how samples ``[batch, channels, ...]`` are normalised; None leaves them as they are."""
        if how is None:
            self.normalise = nn.Identity()
            return
        self.normalise = Normalise(how, channels, type(self).__name__)
        self.personal = self.personal | {"normalise.mean", "normalise.std"}

    def looks(self) -> bool:
        """Whether the student normalises by its own samples."""
        return isinstance(self.normalise, Normalise) and self.normalise.own

    def look(self, samples: Callable[[], Iterable[Views]]) -> None:
        """Take statistics of the peer's own samples."""
        assert isinstance(self.normalise, Normalise)
        self.normalise.learn(samples())


class Normalise(nn.Module):
    """Subtracts a number from every channel and divides by another.

    Args:
        how: numbers, or ``own``: nothing is changed until ``learn`` has seen samples.
        channels: of a sample.
        owner: the student's class, for messages.

    Raises:
        ConfigError: numbers are neither one for all channels nor one each.
    """

    mean: Float[Tensor, " channels"]
    std: Float[Tensor, " channels"]

    def __init__(self, how: Normalised, channels: int, owner: str) -> None:
        super().__init__()
        self.own = how == "own"
        mean, std = [0.0], [1.0]
        if not isinstance(how, str):
            constants = how if isinstance(how, Constants) else _constants(how)
            mean, std = constants.mean, constants.std
        for name, given in (("mean", mean), ("std", std)):
            if len(given) not in (1, channels):
                raise ConfigError(
                    f"{owner}: normalise.{name} is {len(given)} numbers, and samples have {channels}"
                    " channels; give one, or one each"
                )
            self.register_buffer(name, torch.tensor(given).expand(channels).clone())

    def forward(self, x: Float[Tensor, "batch channels *places"]) -> Float[Tensor, "batch channels *places"]:
        """``(x - mean) / std`` in every channel."""
        shape = (-1, *[1] * (x.dim() - 2))
        return (x - self.mean.view(shape)) / self.std.view(shape)

    @torch.no_grad()
    def learn(self, batches: Iterable[Float[Tensor, "batch channels ..."]]) -> None:
        """Take mean and deviation of each channel over all samples and places; 1, if it is constant."""
        count, (shift, total, squares) = 0, torch.zeros(3, len(self.mean), dtype=torch.float64)
        for x in batches:
            flat = x.transpose(0, 1).flatten(1).double().cpu()
            # About the mean of the first batch, for squares of large numbers would lose what they differ by.
            shift = flat.mean(1) if count == 0 else shift
            centred = flat - shift[:, None]
            count += flat.shape[1]
            total, squares = total + centred.sum(1), squares + centred.square().sum(1)
        if count == 0:
            return
        deviation = (squares / count - (total / count).square()).clamp(min=0).sqrt()
        self.mean.copy_(shift + total / count)
        self.std.copy_(torch.where(deviation > 1e-7, deviation, 1.0))


def _constants(arguments: Mapping[str, Any]) -> Constants:
    known = list(Constants.__dataclass_fields__)
    if odd := [name for name in arguments if name not in known]:
        raise ConfigError(f"normalise has no setting '{odd[0]}'{near(odd[0], known)}")
    if missing := [name for name in known if name not in arguments]:
        raise ConfigError(
            f"normalise lacks {' and '.join(missing)}: give one number a channel, or one for all"
        )
    return Constants(**arguments)
