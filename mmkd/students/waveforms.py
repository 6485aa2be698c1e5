"""Models of the transformers library that read raw sound, and hear nothing of padding.

Their own masks are looked at with ``.all()`` and written through boolean places, neither of which ``vmap``
can do, and a group norm of theirs reads padding whatever the mask. So the masks are put in from outside.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmkd.functional.padding import group_norm, kept
from mmkd.types import ConfigError

MASKED = ("wav2vec2", "hubert", "unispeech", "unispeech-sat")
"""Models, by their type, in which padding is known to have no part; a test compares each."""


def embed_padded(
    model: Any, x: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch dim"]:
    """The mean of a model's hidden states over the positions of recordings that are not padding.

    Args:
        model: of the transformers library, with eager attention.
        x: recordings, with zeros behind their ends.
        lengths: of the recordings.

    Raises:
        ConfigError: the model is not one of those that are known here.
    """
    kind = model.config.model_type
    if kind not in MASKED:
        raise ConfigError(
            f"recordings are of unequal length, and a {kind} would hear their padding; make them equally"
            f" long, or take one of {', '.join(MASKED)}"
        )
    counts = [lengths]
    for kernel, stride in zip(model.config.conv_kernel, model.config.conv_stride, strict=True):
        counts.append((torch.div(counts[-1] - kernel, stride, rounding_mode="floor") + 1).clamp(min=0))

    def normalise(norm: nn.GroupNorm, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return group_norm(args[0], counts[1], norm.num_groups, norm.weight, norm.bias, norm.eps)

    def silence(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] * kept(counts[-1], args[0].shape[1]).unsqueeze(-1), *args[1:])

    def mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden: Tensor = args[0]
        # The least finite number, for a row of padding alone must not be NaN.
        blocked = torch.zeros(hidden.shape[:2], dtype=hidden.dtype, device=hidden.device)
        blocked = blocked.masked_fill(~kept(counts[-1], hidden.shape[1]), torch.finfo(hidden.dtype).min)
        return args, {**kwargs, "attention_mask": blocked[:, None, None, :]}

    with ExitStack() as hooks:
        norm = getattr(model.feature_extractor.conv_layers[0], "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            hooks.callback(norm.register_forward_hook(normalise).remove)
        hooks.callback(model.encoder.register_forward_pre_hook(silence).remove)
        for layer in model.encoder.layers:
            hooks.callback(layer.register_forward_pre_hook(mask, with_kwargs=True).remove)
        hidden: Tensor = model(x).last_hidden_state
    weight = kept(counts[-1], hidden.shape[1]).unsqueeze(-1)
    return (hidden * weight).sum(1) / counts[-1].clamp(min=1).unsqueeze(-1)
