"""Students that read images."""

from __future__ import annotations

from difflib import get_close_matches
from math import gcd
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmkd.students.base import Classifier
from mmkd.students.settings import refuse_unread, settings_of
from mmkd.types import ConfigError


class SmallCNN(nn.Module):
    """Three convolutions and a global mean, for images of 8 x 8 to 32 x 32 pixels.

    Group normalisation keeps no running statistics, so no peer gets statistics of another peer's data when
    weights are averaged.

    Args:
        in_chans: channels of an image.
        width: channels of the first convolution; the later ones have twice and four times as many.
        norm: ``group`` or ``batch``.
    """

    def __init__(self, *, in_chans: int, width: int, norm: Literal["group", "batch"]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_chans
        for depth in range(3):
            channels = width * 2**depth
            layers += [
                nn.Conv2d(before, channels, 3, stride=1 if depth == 0 else 2, padding=1, bias=False),
                nn.GroupNorm(gcd(8, channels), channels) if norm == "group" else nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            before = channels
        self.net = nn.Sequential(*layers)
        self.dim = before

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Embed images."""
        features: Tensor = self.net(x)
        return features.mean((-2, -1))


def timm_encoder(
    name: str, *, pretrained: bool, in_chans: int, image_size: int | None
) -> tuple[nn.Module, int]:
    """A timm model without its classifier, and the size of its embedding.

    Raises:
        ConfigError: timm has no such model, or the model reads images of one size and none is given.
    """
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name, ["small_cnn", *timm.list_models()], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise ConfigError(f"timm has no model '{name}'; {hint}")
    sized: dict[str, Any] = {}
    card = timm.get_pretrained_cfg(name)
    if card is not None and card.fixed_input_size:
        if image_size is None:
            raise ConfigError(
                f"backbone '{name}' reads images of one size; set image_size"
                f" (its weights come from {card.input_size[-1]})"
            )
        sized = {"img_size": image_size}
    model: Any = timm.create_model(name, pretrained=pretrained, in_chans=in_chans, num_classes=0, **sized)
    # Some models have a layer between pooling and classifier, which changes the size.
    return model, int(getattr(model, "head_hidden_size", model.num_features))


class VisionStudent(Classifier):
    """A student that reads images ``[batch, channels, height, width]``.

    Args:
        num_classes: number of classes, the same for every peer of a cohort.
        backbone: ``small_cnn``, or the name of a timm model.
        pretrained: whether a timm model starts from published weights, which timm downloads.
        in_chans: channels of an image.
        image_size: height and width to which images are resized bilinearly; left out, images keep their size.
        width: channels of the first convolution of ``small_cnn``.
        norm: normalisation of ``small_cnn``.
        dropout: share of the embedding that is dropped in training.
        kwargs: arguments of ``Classifier``.

    Raises:
        ConfigError: the backbone is unknown, or a setting would have no effect on it.
    """

    modalities = ("image",)

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "small_cnn",
        pretrained: bool = False,
        in_chans: int = 1,
        image_size: int | None = None,
        width: int = 16,
        norm: Literal["group", "batch"] = "group",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        settings = settings_of(locals())
        encoder: nn.Module
        if backbone == "small_cnn":
            refuse_unread(VisionStudent, settings, ["pretrained"], reader="a timm model", given="small_cnn")
            encoder = small = SmallCNN(in_chans=in_chans, width=width, norm=norm)
            dim = small.dim
        else:
            encoder, dim = timm_encoder(
                backbone, pretrained=pretrained, in_chans=in_chans, image_size=image_size
            )
            refuse_unread(VisionStudent, settings, ["width", "norm"], reader="small_cnn", given=backbone)
        super().__init__(num_classes, dim=dim, **kwargs)
        # A checkpoint brings its own weights: nothing is downloaded to overwrite them.
        self.save_hyperparameters({**settings, "pretrained": False})
        self.image_size = image_size
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)

    def embed(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Embed images."""
        if self.image_size is not None and tuple(x.shape[-2:]) != (self.image_size, self.image_size):
            x = F.interpolate(x, size=(self.image_size, self.image_size), mode="bilinear")
        embedding: Tensor = self.dropout(self.encoder(x))
        return embedding
