"""Every kind of student, small, with samples that it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkd.students import AudioStudent, Classifier, FusionStudent, MotionStudent, TextStudent, VisionStudent
from mmkd.types import SHOWN

CLASSES = 5

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 4],
    "conv_stride": [5, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}


def images(size: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda batch, stream: torch.randn(batch, 1, size, size, generator=stream)


def sound(batch: int, stream: torch.Generator) -> Tensor:
    return torch.randn(batch, 1000, generator=stream)


def motion(batch: int, stream: torch.Generator) -> Tensor:
    return torch.randn(batch, 3, 50, generator=stream)


def text(batch: int, stream: torch.Generator) -> Tensor:
    """Texts of all lengths from none to all; what is left is padding."""
    tokens = torch.randint(1, 60, (batch, 12), generator=stream)
    return tokens.where(torch.arange(12) < torch.arange(batch)[:, None] * 4, 0)


def captioned(batch: int, stream: torch.Generator) -> dict[str, Tensor]:
    """Images and texts of the same samples; some samples lack the one, some the other."""
    number = torch.arange(batch)
    return {
        "image": images(8)(batch, stream),
        "text": text(batch, stream),
        SHOWN + "image": number % 4 != 1,
        SHOWN + "text": number % 4 != 3,
    }


class Kind(NamedTuple):
    """A student recipe and what it reads."""

    cls: type[Classifier]
    settings: dict[str, Any]
    draw: Callable[[int, torch.Generator], Any]
    dropouts: tuple[str, ...] = ()  # in the transformers configuration

    def build(self, dropout: float = 0.0, **more: Any) -> Classifier:
        settings = {**self.settings, **more, "dropout": dropout}
        if self.dropouts:
            settings["transformers"] = settings["transformers"] | dict.fromkeys(self.dropouts, dropout)
        return self.cls(CLASSES, **settings)


BERT_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
WAV2VEC2_DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")
ENCODERS = {
    "image": lambda n: VisionStudent(n, width=8, norm="batch"),
    "text": lambda n: TextStudent(n, vocabulary=64, width=8),
}

KINDS = {
    "small_cnn group": Kind(VisionStudent, {"width": 8}, images(8)),
    "small_cnn batch": Kind(VisionStudent, {"width": 8, "norm": "batch"}, images(8)),
    "resnet": Kind(VisionStudent, {"backbone": "test_resnet"}, images(32)),
    "mobilenetv3": Kind(VisionStudent, {"backbone": "mobilenetv3_small_050", "image_size": 32}, images(8)),
    "audio cnn": Kind(AudioStudent, {"width": 8}, sound),
    "wav2vec2": Kind(AudioStudent, {"transformers": WAV2VEC2}, sound, WAV2VEC2_DROPOUTS),
    "motion cnn": Kind(MotionStudent, {"width": 8, "channels": 3, "kernel": 4}, motion),
    "text cnn": Kind(TextStudent, {"vocabulary": 64, "width": 8}, text),
    "bert": Kind(TextStudent, {"vocabulary": 64, "transformers": BERT}, text, BERT_DROPOUTS),
    "fusion": Kind(FusionStudent, {"encoders": ENCODERS, "dim": 16}, captioned),
}
