"""Students that read motion."""

from __future__ import annotations

from math import gcd
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mmkd.bounds import BelowOne, Size, bounded
from mmkd.students.adapting import Trained, adapt
from mmkd.students.base import Classifier
from mmkd.students.normalising import Normalised, Normalising
from mmkd.students.settings import settings_of
from mmkd.types import ConfigError, Modality


class SmallMotionCNN(nn.Module):
    """Three convolutions over time, each of stride 2, then the mean over time.

    Group normalisation keeps no running statistics, so no peer gets statistics of another peer's data when
    weights are averaged.

    Args:
        channels: of a recording, such as the axes of an accelerometer and of a gyroscope.
        width: channels of the first convolution; the later ones have twice as many.
        kernel: moments that a convolution reads at once.
    """

    def __init__(self, *, channels: int, width: int, kernel: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for after in (width, 2 * width, 2 * width):
            layers += [
                nn.Conv1d(before, after, kernel, stride=2, padding=kernel // 2, bias=False),
                nn.GroupNorm(gcd(8, after), after),
                nn.ReLU(),
            ]
            before = after
        self.net = nn.Sequential(*layers)
        self.dim = before

    def forward(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch dim"]:
        """Embed recordings."""
        features: Tensor = self.net(x)
        return features.mean(-1)


@bounded
class MotionStudent(Normalising, Classifier):
    """A student that reads recordings of motion ``[batch, channels, time]``, of any length in time.

    Args:
        num_classes: number of classes, the same for every peer of a cohort.
        modality: what the data call what it reads, where they tell one sensor from another: "acceleration".
        channels: of a recording; three of acceleration and three of rotation, if left out.
        width: channels of the first convolution.
        kernel: moments that a convolution reads at once.
        dropout: share of the embedding that is dropped in training.
        normalise: ``mean`` and ``std`` of each channel, which are taken out of samples; or ``own``, those
            of the peer's own training samples.
        trained: ``all``; ``head``, on an encoder that stays as it is, in evaluation; or arguments of
            ``Lora``, for adapters beside it. What is not trained is not exchanged.
        kwargs: arguments of ``Classifier``.

    Raises:
        ConfigError: the modality has no name, or is several.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        modality: Modality = "motion",
        channels: Size = 6,
        width: Size = 32,
        kernel: Size = 5,
        dropout: BelowOne = 0.0,
        normalise: Normalised | None = None,
        trained: Trained = "all",
        **kwargs: Any,
    ) -> None:
        settings = settings_of(locals())
        if not modality or "+" in modality:
            raise ConfigError(
                f"MotionStudent reads one modality, not '{modality}'; a FusionStudent reads several"
            )
        encoder = SmallMotionCNN(channels=channels, width=width, kernel=kernel)
        super().__init__(num_classes, dim=encoder.dim, **kwargs)
        self.save_hyperparameters(settings)
        self.modalities = (modality,)
        self.normalised(normalise, channels)
        self.encoder = encoder
        self.still = adapt(encoder, "encoder", trained, type(self).__name__)
        self.dropout = nn.Dropout(dropout)

    def embed(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch dim"]:
        """Embed recordings."""
        embedding: Tensor = self.dropout(self.encoder(self.normalise(x)))
        return embedding
