"""Encoders from transformers: from a configuration, or from weights on disk or on the hub."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from mmkd.types import ConfigError


def transformer(config: dict[str, Any] | None, pretrained: str | None) -> PreTrainedModel:
    """A transformers encoder.

    Attention is computed plainly ("eager"): fused kernels choose their path by looking at the mask's
    values, which a vectorised step does not have.

    Args:
        config: ``model_type`` and whatever else that type's configuration takes.
        pretrained: a folder or a name on the hub, whose weights are loaded instead.

    Raises:
        ConfigError: there is no such model type.
    """
    if pretrained is not None:
        model: PreTrainedModel = AutoModel.from_pretrained(pretrained, attn_implementation="eager")
        return model
    settings = dict(config or {})
    kind = settings.pop("model_type", None)
    if kind is None:
        raise ConfigError("a transformers encoder needs a model_type, such as bert or wav2vec2")
    try:
        made = AutoConfig.for_model(kind, **settings)
    except ValueError as error:
        raise ConfigError(f"transformers knows no model type '{kind}'") from error
    built: PreTrainedModel = AutoModel.from_config(made, attn_implementation="eager")
    return built


def mean_over(features: Tensor, counts: Tensor) -> Tensor:
    """Mean of ``[batch, length, dim]`` over the places that count, ``[batch, length]``; none gives 0."""
    weights = counts.to(features.dtype)[..., None]
    return (features * weights).sum(1) / weights.sum(1).clamp(min=1.0)
