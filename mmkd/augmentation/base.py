"""The interface of augmentations: what a sample may also have looked, sounded or read like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Int, Shaped
from torch import Tensor

from mmkd.functional.random import key, streams_of
from mmkd.types import ConfigError, Modality


class Augmentation(ABC):
    """Changes samples of one modality while students learn from them; nobody is evaluated on changed ones.

    It is a pure function of a sample and of the sample's own random stream, so that a peer reads the same
    samples however its student trains, and after a resume.
    """

    modality: ClassVar[Modality]
    """The modality whose samples it reads; empty, if any may be measured over time."""

    @abstractmethod
    def __call__(
        self, x: Shaped[Tensor, "samples ..."], streams: Int[Tensor, " samples"]
    ) -> Shaped[Tensor, "samples ..."]:
        """Changed samples.

        Args:
            x: samples, which are not changed in place.
            streams: the random stream of each; ``mmkd.functional.random.uniforms`` draws from them.
        """


def check(augment: Mapping[Modality, Sequence[Augmentation]], modalities: Sequence[Modality]) -> None:
    """Refuse augmentations of modalities that are not there, or of other ones than they are named for.

    Raises:
        ConfigError: there are such.
    """
    for modality, chain in augment.items():
        if modality not in modalities:
            raise ConfigError(f"data.augment names '{modality}'; these data have {', '.join(modalities)}")
        for change in chain:
            if change.modality not in ("", modality):
                kind = type(change).__name__
                raise ConfigError(f"{kind} changes samples of '{change.modality}', and not of '{modality}'")


def changed(
    x: Any,
    modality: Modality,
    keys: Int[Tensor, "*batches"],
    size: int,
    augment: Mapping[Modality, Sequence[Augmentation]],
) -> Any:
    """Batches of samples, changed.

    Args:
        x: ``[*batches, size, ...]``; or views by modality.
        modality: that it is of, if it is one.
        keys: of the random stream of each batch.
        size: samples in a batch.
        augment: what each modality's samples go through, in this order.

    Raises:
        ConfigError: samples are no tensors of one shape.
    """
    if isinstance(x, dict):
        parts = modality.split("+")
        return {m: changed(view, m, keys, size, augment) if m in parts else view for m, view in x.items()}
    for number, change in enumerate(augment.get(modality, ())):
        if not isinstance(x, Tensor):
            raise ConfigError(f"{type(change).__name__} changes samples of one length: cut or pad them first")
        own = streams_of(keys, key("augment", modality, number), size)
        flat = x.reshape(own.numel(), *x.shape[own.dim() :])
        x = change(flat, own.flatten()).reshape(x.shape)
    return x
