"""What of an encoder is trained, and so exchanged: all of it, nothing, or low-rank adapters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import nn

from mmkd.bounds import BelowOne, Size, bounded
from mmkd.names import near
from mmkd.types import ConfigError


@bounded
@dataclass(frozen=True)
class Lora:
    """Low-rank adapters of an encoder (Hu et al. 2022, eq. 3): ``W x + alpha / rank * B A x``, ``W`` frozen.

    Averages of ``A`` and of ``B`` are not the average of ``B A``. With ``only_b`` the random ``A`` stays as
    it is, the same at all peers that begin with the same weights, and then they are (FFA-LoRA, Sun et al.
    2024), for half of the bytes.

    Args:
        rank: of an adapter.
        alpha: with the rank, the scale of an adapter.
        dropout: share of an adapter's input that is dropped in training.
        layers: ends of the names of adapted layers, such as ``query``; left out, all linear layers of the
            encoder, or all of its dense convolutions, if it has no linear layer.
        only_b: whether ``A`` is frozen, too.
    """

    rank: Size = 8
    alpha: Size = 16
    dropout: BelowOne = 0.0
    layers: list[str] | None = None
    only_b: bool = False


Trained: TypeAlias = Literal["all", "head"] | Lora | dict[str, Any]
"""What of a student is trained: all, its heads on a frozen encoder, or heads and adapters."""


def adapt(encoder: nn.Module, name: str, trained: Trained, owner: str) -> tuple[str, ...]:
    """Freeze what is not trained of an encoder, and put adapters in.

    Args:
        encoder: is changed in place.
        name: of the encoder in the student.
        trained: what of the student is; a dictionary holds arguments of ``Lora``, as a checkpoint keeps them.
        owner: the student's class, for messages.

    Returns:
        Names of modules that stay in evaluation while the student trains: a frozen encoder, or the layers of
        an adapted one that would gather statistics.

    Raises:
        ConfigError: peft is not installed, or the encoder has no such layers.
    """
    if trained == "all":
        return ()
    # Lightning counts the modules that evaluate when training begins; these are meant to.
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
    if trained == "head":
        encoder.requires_grad_(False).eval()
        return (name,)
    lora = _lora(trained) if isinstance(trained, Mapping) else trained
    assert isinstance(lora, Lora)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(f"adapters need peft: pip install 'mmkd[adapters]' ({error})") from error
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_layers(encoder, lora.layers, owner),
    )
    try:
        inject_adapter_in_model(config, encoder)
    except ValueError as error:  # a layer that peft cannot adapt, such as a convolution in groups
        raise ConfigError(f"{owner}: {' '.join(str(error).split())[:200]}") from error
    for n, parameter in encoder.named_parameters():
        if lora.only_b and ".lora_A." in n:
            parameter.requires_grad_(False)
    gathering = {n: m for n, m in encoder.named_modules() if getattr(m, "running_mean", None) is not None}
    for module in gathering.values():
        module.eval()
    return tuple(f"{name}.{n}" for n in gathering)


def _lora(arguments: Mapping[str, Any]) -> Lora:
    known = list(Lora.__dataclass_fields__)
    if odd := [name for name in arguments if name not in known]:
        raise ConfigError(f"Lora has no setting '{odd[0]}'{near(odd[0], known)}")
    return Lora(**arguments)


def _layers(encoder: nn.Module, ends: list[str] | None, owner: str) -> list[str]:
    """Whole names of the layers that are adapted."""
    names = {name: module for name, module in encoder.named_modules() if name}
    if ends is not None:
        found = {end: [n for n in names if n == end or n.endswith(f".{end}")] for end in ends}
        if missing := [end for end, layers in found.items() if not layers]:
            there = {name.rpartition(".")[2] for name in names}
            raise ConfigError(f"{owner}: the encoder has no layer '{missing[0]}'{near(missing[0], there)}")
        return sorted({name for layers in found.values() for name in layers})
    linear = [n for n, m in names.items() if isinstance(m, nn.Linear)]
    convolutions = nn.Conv1d | nn.Conv2d
    layers = linear or [n for n, m in names.items() if isinstance(m, convolutions) and m.groups == 1]
    if not layers:
        raise ConfigError(f"{owner}: the encoder has neither a linear layer nor a dense convolution to adapt")
    return layers
