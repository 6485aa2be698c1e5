"""Encoders of the transformers library, built from a configuration or loaded from a folder.

A student may be one row of a stack (``torch.func.vmap``), so nothing in an encoder may branch on the
values of a tensor, and all its randomness must come from torch's generator, which a local step keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

from mmkd.names import near
from mmkd.students.published import published
from mmkd.types import ConfigError

UNKEYED: dict[str, Any] = {
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}
"""Settings that would branch on a random tensor or draw from NumPy's generator, and their neutral values."""


class WeightNorm(nn.Module):
    """Weight normalisation as plain arithmetic; torch's own kernel has no batching rule.

    Args:
        dim: the dimension that keeps a norm of its own.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(
        self, norm: Float[Tensor, "*#shape"], direction: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """``norm * direction / |direction|``."""
        others = [d for d in range(direction.dim()) if d != self.dim % direction.dim()]
        scaled: Tensor = direction * (norm / torch.linalg.vector_norm(direction, dim=others, keepdim=True))
        return scaled


class HubEncoder(nn.Module):
    """A transformers encoder whose hidden states are averaged over the positions that are not padding.

    Args:
        model: returns ``last_hidden_state`` of shape ``[batch, positions, dim]``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # never read here, and its weights would cost bytes in every exchange
        for module in model.modules():
            if isinstance(module, ParametrizationList):
                for i, step in enumerate(module):
                    if isinstance(step, _WeightNorm):
                        module[i] = WeightNorm(step.dim)
        self.model = model
        self.dim = int(model.config.hidden_size)

    def forward(
        self,
        x: Shaped[Tensor, "batch length"],
        keep: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Embed samples; ``keep`` is false where an input is padding. Left out, no input is."""
        if keep is None:
            hidden: Tensor = self.model(x).last_hidden_state
            return hidden.mean(1)
        dtype = next(self.model.parameters()).dtype
        # A mask of keys only would be inspected with .all(), which vmap cannot do; a finished additive
        # mask is taken as it is. The least finite number, for a row without any token must not be NaN.
        blocked = torch.zeros(keep.shape, dtype=dtype, device=x.device)
        blocked = blocked.masked_fill(~keep, torch.finfo(dtype).min)[:, None, None, :]
        mask = blocked.expand(-1, 1, x.shape[1], -1)
        hidden = self.model(x, attention_mask=mask).last_hidden_state
        weight = keep.to(dtype).unsqueeze(-1)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def hub_encoder(
    transformers: Mapping[str, Any] | None, pretrained: str | None, **defaults: Any
) -> tuple[HubEncoder, dict[str, Any]]:
    """Make an encoder, and the configuration that makes it again without its weights.

    Layer drop and SpecAugment of a pretrained model are switched off: their random numbers do not come
    from the stream of the local step.

    Args:
        transformers: ``model_type`` and arguments of its configuration class, for random weights.
        pretrained: folder that ``save_pretrained`` wrote (or a name on the Hugging Face hub).
        defaults: configuration entries that ``transformers`` replaces.

    Raises:
        ConfigError: both are given, the configuration has mistakes, or nothing is there to load.
    """
    import transformers as library

    auto: Any = library.AutoModel
    if pretrained is None:
        entries = {**defaults, **(transformers or {})}
        config = configuration(entries)
        _switch_off(config)
        return HubEncoder(auto.from_config(config, attn_implementation="eager")), entries
    if transformers is not None:
        raise ConfigError(
            "a pretrained model brings its own configuration; remove transformers or pretrained"
        )
    with _finding(pretrained):
        config = library.AutoConfig.from_pretrained(pretrained)
        _switch_off(config)
        model = auto.from_pretrained(
            pretrained, config=config, attn_implementation="eager", dtype=torch.get_default_dtype()
        )
    return HubEncoder(model.train()), config.to_diff_dict()


def _switch_off(config: Any) -> None:
    for name, off in UNKEYED.items():
        if hasattr(config, name):
            setattr(config, name, off)


@contextmanager
def _finding(pretrained: str) -> Iterator[None]:
    """While a model is loaded: that it is not there is one line, and a folder is not asked for elsewhere."""
    instead = "give a folder that save_pretrained wrote"
    is_path = Path(pretrained).is_dir() or pretrained.startswith((".", "/", "~"))
    try:
        with nullcontext() if is_path else published(f"'{pretrained}', which is no folder", instead):
            yield
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"no pretrained model at '{pretrained}'; {instead}") from error


def configuration(entries: Mapping[str, Any]) -> Any:
    """Make a configuration of the transformers library from its entries.

    Raises:
        ConfigError: there is no such model, or it has no such entry.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = str(entries.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ConfigError(f"transformers has no model_type '{kind}'{near(kind, list(CONFIG_MAPPING))}")
    blank = CONFIG_MAPPING[kind]()
    for name, value in entries.items():
        # The library would keep a misspelt entry and never read it.
        if name not in ("model_type", "transformers_version") and not hasattr(blank, name):
            raise ConfigError(f"a {kind} has no setting '{name}'{near(name, list(blank.to_dict()))}")
        if name in UNKEYED and hasattr(blank, name) and value != UNKEYED[name]:
            raise ConfigError(
                f"{name} draws random numbers outside of a peer's stream; leave it out, or set it to"
                f" {UNKEYED[name]}"
            )
    return AutoConfig.for_model(**entries)
