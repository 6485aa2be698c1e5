"""Students that see."""

from __future__ import annotations

import difflib
from typing import Literal

import timm
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from mmkd.students.base import Classifier, adam
from mmkd.types import ConfigError


class VisionStudent(Classifier):
    """Classifies images ``[batch, channels, height, width]``.

    Args:
        num_classes: classes, the same for every peer of a cohort.
        backbone: ``small_cnn``, made for images of 8 to 32 pixels, or any model that timm knows.
        pretrained: load timm's weights (needs the network, once).
        in_chans: channels of an image.
        image_size: images are resized to that many pixels a side; as they come if left out.
        width: channels of the small CNN's first layer; a multiple of 4.
        norm: normalisation of the small CNN; ``group`` keeps no running statistics.
        heads: auxiliary heads, which learn from peers only.
        prior_correction: strength of logit adjustment, see ``Classifier``.
        optimizer: makes the peer's own optimizer from its parameters.
        scheduler: makes its learning-rate schedule, which counts local steps.

    Raises:
        ConfigError: timm knows no such backbone.
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
        heads: int = 0,
        prior_correction: float = 0.0,
        optimizer: OptimizerCallable = adam,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        encoder: nn.Module
        if backbone == "small_cnn":
            encoder, dim = small_cnn(in_chans, width, norm, first_stride=1), 4 * width
        else:
            encoder = timm_backbone(backbone, pretrained, in_chans, image_size)
            dim = int(encoder.head_hidden_size)  # type: ignore[arg-type]
        super().__init__(
            num_classes,
            dim=dim,
            heads=heads,
            prior_correction=prior_correction,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.image_size = image_size
        self.encoder = encoder

    def embed(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """The backbone, on resized images if a size was given."""
        if self.image_size is not None and x.shape[-1] != self.image_size:
            x = F.interpolate(x, size=(self.image_size, self.image_size), mode="bilinear")
        embedding: Tensor = self.encoder(x)
        return embedding


def small_cnn(in_chans: int, width: int, norm: Literal["group", "batch"], *, first_stride: int) -> nn.Sequential:
    """Three convolutions and a mean over what is left of the image: ``4 * width`` features.

    Strides instead of pooling: a few times cheaper, and these students are counted by their steps.
    """
    return nn.Sequential(
        *_convolution(in_chans, width, norm, first_stride),
        *_convolution(width, 2 * width, norm, 2),
        *_convolution(2 * width, 4 * width, norm, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def _convolution(ins: int, outs: int, norm: Literal["group", "batch"], stride: int) -> list[nn.Module]:
    layer: nn.Module = nn.GroupNorm(4, outs) if norm == "group" else nn.BatchNorm2d(outs)
    return [nn.Conv2d(ins, outs, 3, stride, padding=1, bias=False), layer, nn.ReLU()]


def timm_backbone(name: str, pretrained: bool, in_chans: int, image_size: int | None) -> nn.Module:
    """A timm model without its classifier.

    Raises:
        ConfigError: timm knows no such model.
    """
    if name.split(".")[0] not in timm.list_models():
        close = difflib.get_close_matches(name, [*timm.list_models(), "small_cnn"], n=3)
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise ConfigError(f"timm knows no backbone '{name}'{hint}")
    size = {"img_size": image_size} if image_size is not None and "vit" in name else {}
    model: nn.Module = timm.create_model(
        name, pretrained=pretrained, in_chans=in_chans, num_classes=0, **size
    )
    return model
