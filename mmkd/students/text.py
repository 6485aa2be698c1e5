"""Students that read."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from mmkd.students.base import Classifier, adam
from mmkd.students.hub import mean_over, transformer


class TextStudent(Classifier):
    """Classifies token ids ``[batch, length]``, of which 0 is padding.

    Args:
        num_classes: classes, the same for every peer of a cohort.
        vocabulary: token ids are below this.
        dim: size of the embedding of the small CNN.
        transformers: configuration of a transformers encoder to use instead, such as
            ``{model_type: bert, hidden_size: 32, ...}``; its vocabulary follows ``vocabulary``.
        pretrained: folder or hub name of such an encoder with its weights.
        heads: auxiliary heads, which learn from peers only.
        prior_correction: strength of logit adjustment, see ``Classifier``.
        optimizer: makes the peer's own optimizer from its parameters.
        scheduler: makes its learning-rate schedule, which counts local steps.
    """

    modalities = ("text",)

    def __init__(
        self,
        num_classes: int,
        *,
        vocabulary: int = 64,
        dim: int = 64,
        transformers: dict[str, Any] | None = None,
        pretrained: str | None = None,
        heads: int = 0,
        prior_correction: float = 0.0,
        optimizer: OptimizerCallable = adam,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        encoder: nn.Module
        if transformers is None and pretrained is None:
            encoder = CharacterCNN(vocabulary, dim)
        else:
            settings = {**transformers, "vocab_size": vocabulary} if transformers is not None else None
            model = transformer(settings, pretrained)
            encoder, dim = MaskedMean(model), model.config.hidden_size
        super().__init__(
            num_classes,
            dim=dim,
            heads=heads,
            prior_correction=prior_correction,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.encoder = encoder

    def embed(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        """Features of the tokens that are not padding."""
        embedding: Tensor = self.encoder(x)
        return embedding


class CharacterCNN(nn.Module):
    """Character embedding, two convolutions, and the maximum over places that are not padding."""

    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim // 2)
        self.near = nn.Conv1d(dim // 2, dim, 3, padding=1)
        self.far = nn.Conv1d(dim, dim, 3, padding=1)

    def forward(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        """Features of a word."""
        there = (x != 0).unsqueeze(1).to(self.near.weight.dtype)
        features = self.embedding(x).transpose(1, 2) * there
        features = torch.relu(self.near(features)) * there
        # Both factors are at least 0, so a place that is masked never is the maximum of a word.
        return (torch.relu(self.far(features)) * there).amax(-1)


class MaskedMean(nn.Module):
    """Mean of a transformers encoder's last hidden state over places that are not padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        """Features of a text."""
        there = x != 0
        # A ready-made additive mask: building one from 0 and 1 looks at its values, which vmap forbids.
        blocked = (~there)[:, None, None, :].to(next(self.model.parameters()).dtype)
        mask = (blocked * torch.finfo(blocked.dtype).min).expand(-1, 1, x.shape[1], -1)
        hidden: Tensor = self.model(input_ids=x, attention_mask=mask).last_hidden_state
        return mean_over(hidden, there)
