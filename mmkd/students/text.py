"""Students that read text."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmkd.bounds import BelowOne, Size, bounded
from mmkd.students.adapting import Trained, adapt
from mmkd.students.base import Classifier
from mmkd.students.hub import HubEncoder, hub_encoder
from mmkd.students.settings import refuse_unread, settings_of
from mmkd.types import Padded

Tokens = Int[Tensor, "batch length"]
"""Texts as numbers of tokens, with 0 after the end of a text."""


class SmallTextCNN(nn.Module):
    """Embeddings of tokens and two convolutions over them, then the maximum over the text.

    Padding is set to zero after every layer, so the embedding of a text does not depend on its padding.

    Args:
        vocabulary: number of tokens, padding included.
        width: size of a token's embedding; the convolutions have twice as many channels.
    """

    def __init__(self, *, vocabulary: int, width: int) -> None:
        super().__init__()
        self.dim = 2 * width
        self.tokens = nn.Embedding(vocabulary, width)
        self.first = nn.Conv1d(width, self.dim, 3, padding=1)
        self.second = nn.Conv1d(self.dim, self.dim, 3, padding=1)

    def forward(self, x: Tokens, keep: Bool[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        """Embed texts."""
        there = keep.unsqueeze(1)
        hidden: Tensor = self.tokens(x).transpose(1, 2) * there
        hidden = self.first(hidden).relu() * there
        hidden = self.second(hidden).relu() * there
        # Rectified values are at least 0, the value of padding, so padding does not change the maximum.
        return hidden.amax(-1)


@bounded
class TextStudent(Classifier):
    """A student that reads token ids ``[batch, length]``, where 0 is padding.

    It is a small convolutional network, unless ``transformers`` or ``pretrained`` names an encoder that
    takes a finished attention mask (BERT, RoBERTa, ELECTRA, DistilBERT, ALBERT, ModernBERT do).

    Args:
        num_classes: number of classes, the same for every peer of a cohort.
        vocabulary: number of tokens, padding included; by default ASCII. A pretrained model brings its own.
        width: size of a token's embedding in the small network.
        transformers: ``model_type`` and settings of a transformers model with random weights.
        pretrained: folder of a transformers model to start from.
        dropout: share of the embedding that is dropped in training.
        trained: ``all``; ``head``, on an encoder that stays as it is, in evaluation; or arguments of
            ``Lora``, for adapters beside it. What is not trained is not exchanged.
        kwargs: arguments of ``Classifier``.

    Raises:
        ConfigError: the transformers model cannot be built, or a setting would have no effect on it.
    """

    modalities = ("text",)

    def __init__(
        self,
        num_classes: int,
        *,
        vocabulary: Size = 128,
        width: Size = 32,
        transformers: dict[str, Any] | None = None,
        pretrained: str | None = None,
        dropout: BelowOne = 0.0,
        trained: Trained = "all",
        **kwargs: Any,
    ) -> None:
        settings = settings_of(locals())
        encoder: SmallTextCNN | HubEncoder
        if transformers is None and pretrained is None:
            encoder = SmallTextCNN(vocabulary=vocabulary, width=width)
        else:
            unread = ["width"] if pretrained is None else ["width", "vocabulary"]
            refuse_unread(
                TextStudent, settings, unread, reader="the small network", given="a transformers model"
            )
            encoder, settings["transformers"] = hub_encoder(
                transformers, pretrained, vocab_size=vocabulary, pad_token_id=0
            )
            settings["pretrained"] = None  # a checkpoint brings its own weights
        super().__init__(num_classes, dim=encoder.dim, **kwargs)
        self.save_hyperparameters(settings)
        self.encoder = encoder
        self.still = adapt(encoder, "encoder", trained, type(self).__name__)
        self.dropout = nn.Dropout(dropout)

    def embed(self, x: Tokens | Padded) -> Float[Tensor, "batch dim"]:
        """Embed texts."""
        if isinstance(x, Padded):  # with the zeros that are padding here, too
            x = x.values
        embedding: Tensor = self.dropout(self.encoder(x, x != 0))
        return embedding
