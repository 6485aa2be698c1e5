"""A feature pyramid over any timm backbone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from mmkd.names import near
from mmkd.types import ConfigError


class Pyramid(nn.Module):
    """A timm backbone with random weights under a feature pyramid (Lin et al. 2017).

    Layers of the backbone of which no level is made are left out: timm's MobileNets and EfficientNets keep
    and compute what is deeper than the last level, and peers would send it, though nothing is learned there.

    Args:
        backbone: name of a timm model that has feature maps.
        channels: of every level of the pyramid.
        strides: of the pyramid's levels, in pixels; each is a stride of the backbone.

    Raises:
        ConfigError: timm has no such model, or the model has no feature map of such a stride.
    """

    def __init__(self, backbone: str, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        import timm

        if not isinstance(backbone, str) or not timm.is_model(backbone):
            raise ConfigError(f"timm has no model '{backbone}'{near(str(backbone), timm.list_models())}")
        whole: Any = timm.create_model(backbone, pretrained=False, features_only=True)
        has = whole.feature_info.reduction()
        if missing := [s for s in strides if s not in has]:
            raise ConfigError(
                f"'{backbone}' has feature maps of strides {', '.join(map(str, has))}, none of {missing[0]};"
                " change the detector's strides"
            )
        at = [has.index(s) for s in strides]
        body: Any = timm.create_model(backbone, pretrained=False, features_only=True, out_indices=at)
        _cut(body)
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), channels)
        self.body: nn.Module = body
        self.out_channels = channels

    def forward(
        self, x: Float[Tensor, "batch 3 height width"]
    ) -> dict[str, Float[Tensor, "batch channels _ _"]]:
        """One feature map a level, by the level's number."""
        features = OrderedDict((str(i), f) for i, f in enumerate(self.body(x)))
        maps: dict[str, Tensor] = self.fpn(features)
        return maps


def _cut(body: Any) -> None:
    """Take away layers on which no feature map depends."""
    config: Any = getattr(body, "pretrained_cfg", None) or {}
    parameters = list(body.parameters())
    frame = torch.zeros(1, *config.get("input_size", (3, 224, 224)))
    training = body.training
    with torch.enable_grad():
        maps = sum(feature.sum() for feature in body.eval()(frame))
        reached = torch.autograd.grad(maps, parameters, allow_unused=True)
    body.train(training)
    _drop(body, {id(p) for p, gradient in zip(parameters, reached, strict=True) if gradient is None})


def _drop(module: nn.Module, dead: set[int]) -> None:
    for name, child in module.named_children():
        own = [id(parameter) for parameter in child.parameters()]
        if own and dead.issuperset(own):
            setattr(module, name, nn.Identity())
        else:
            _drop(child, dead)
