"""Students that read images."""

from __future__ import annotations

from math import gcd
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmkd.bounds import BelowOne, Size, bounded
from mmkd.names import near
from mmkd.students.adapting import Trained, adapt
from mmkd.students.base import Classifier
from mmkd.students.normalising import Constants, Normalised, Normalising
from mmkd.students.published import published
from mmkd.students.settings import refuse_unread, settings_of
from mmkd.students.weights import load_weights, of_this_network, read_weights
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
    name: str, *, pretrained: bool, weights: str | None, in_chans: int, image_size: int | None
) -> tuple[nn.Module, int, bool]:
    """A timm model without its classifier, the size of its embedding, and whether a file gave its weights.

    A file that timm published is read as timm reads it, for other channels and other sizes of an image, too;
    of any other nothing is loaded here.

    Raises:
        ConfigError: timm has no such model, no weights of it or cannot get them, or the model reads images of
            one size and none is given.
    """
    import timm

    if not timm.is_model(name):
        names = ["small_cnn", *timm.list_models()]
        raise ConfigError(
            f"timm has no model '{name}'{near(name, names) or '; timm.list_models() lists them'}"
        )
    sized: dict[str, Any] = {}
    card = timm.get_pretrained_cfg(name)
    if card is not None and card.fixed_input_size:
        if image_size is None:
            raise ConfigError(
                f"backbone '{name}' reads images of one size; set image_size"
                f" (its weights come from {card.input_size[-1]})"
            )
        sized = {"img_size": image_size}
    arguments = {"in_chans": in_chans, "num_classes": 0, **sized}
    model: Any
    given = False
    if pretrained:
        if card is None or not card.has_weights:
            raise ConfigError(f"timm has no published weights of '{name}'; leave pretrained out")
        with published(f"'{name}'", "give a file of them as weights, or leave pretrained out"):
            model = timm.create_model(name, pretrained=True, **arguments)
    else:
        model = timm.create_model(name, **arguments)
        # timm would leave out what a file lacks, and say nothing.
        if weights is not None and model.state_dict().keys() <= read_weights(weights).keys():
            given, file = True, {"file": weights, "custom_load": False}
            with of_this_network(weights):
                model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=file, **arguments)
    # Some models have a layer between pooling and classifier, which changes the size.
    return model, int(getattr(model, "head_hidden_size", model.num_features)), given


def _published(backbone: str, channels: int) -> Constants:
    """The mean and deviation that published weights of a timm model expect; means of them, unless of three.

    Raises:
        ConfigError: nothing was published for the backbone.
    """
    import timm

    card = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    if card is None:
        raise ConfigError(f"nothing is published of '{backbone}'; give normalise mean and std, or own")
    mean, std = list(card.mean), list(card.std)
    return Constants(mean, std) if channels == 3 else Constants([sum(mean) / 3], [sum(std) / 3])


@bounded
class VisionStudent(Normalising, Classifier):
    """A student that reads images ``[batch, channels, height, width]``.

    Args:
        num_classes: number of classes, the same for every peer of a cohort.
        backbone: ``small_cnn``, or the name of a timm model.
        pretrained: whether a timm model starts from published weights, which timm downloads.
        weights: path of a local file with initial weights: those that timm published for the backbone
            (``.safetensors`` or ``.bin``, their classifier is left out), or a checkpoint of such a student.
        in_chans: channels of an image.
        image_size: height and width to which images are resized bilinearly; left out, images keep their size.
        width: channels of the first convolution of ``small_cnn``.
        norm: normalisation of ``small_cnn``.
        dropout: share of the embedding that is dropped in training.
        normalise: ``mean`` and ``std`` of each channel, which are taken out of samples; or ``own``, those
            of the peer's own training samples; or ``published``, those that the backbone's published weights
            were made with.
        trained: ``all``; ``head``, on an encoder that stays as it is, in evaluation; or arguments of
            ``Lora``, for adapters beside it. What is not trained is not exchanged.
        kwargs: arguments of ``Classifier``.

    Raises:
        ConfigError: the backbone is unknown, a setting would have no effect on it, or the weights are missing
            or of another network.
    """

    modalities = ("image",)

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "small_cnn",
        pretrained: bool = False,
        weights: str | None = None,
        in_chans: Size = 1,
        image_size: Size | None = None,
        width: Size = 16,
        norm: Literal["group", "batch"] = "group",
        dropout: BelowOne = 0.0,
        normalise: Literal["published"] | Normalised | None = None,
        trained: Trained = "all",
        **kwargs: Any,
    ) -> None:
        settings = settings_of(locals())
        encoder: nn.Module
        if pretrained and weights is not None:
            raise ConfigError(
                "VisionStudent: published weights or those of a file; remove pretrained or weights"
            )
        if backbone == "small_cnn":
            refuse_unread(VisionStudent, settings, ["pretrained"], reader="a timm model", given="small_cnn")
            encoder = small = SmallCNN(in_chans=in_chans, width=width, norm=norm)
            dim, given = small.dim, False
        else:
            encoder, dim, given = timm_encoder(
                backbone, pretrained=pretrained, weights=weights, in_chans=in_chans, image_size=image_size
            )
            refuse_unread(VisionStudent, settings, ["width", "norm"], reader="small_cnn", given=backbone)
        super().__init__(num_classes, dim=dim, **kwargs)
        # A checkpoint brings its own weights: nothing is downloaded to overwrite them.
        self.save_hyperparameters({**settings, "pretrained": False, "weights": None})
        self.image_size = image_size
        self.normalised(_published(backbone, in_chans) if normalise == "published" else normalise, in_chans)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        if weights is not None and not given:
            load_weights([self, encoder], weights)
        self.still = adapt(encoder, "encoder", trained, type(self).__name__)

    def embed(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Embed images."""
        if self.image_size is not None and tuple(x.shape[-2:]) != (self.image_size, self.image_size):
            x = F.interpolate(x, size=(self.image_size, self.image_size), mode="bilinear")
        embedding: Tensor = self.dropout(self.encoder(self.normalise(x)))
        return embedding
