"""Students that hear."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from mmkd.students.base import Classifier, adam
from mmkd.students.hub import transformer
from mmkd.students.vision import small_cnn


class AudioStudent(Classifier):
    """Classifies waveforms ``[batch, samples]``.

    Args:
        num_classes: classes, the same for every peer of a cohort.
        sample_rate: samples a second.
        n_fft: samples in a frame of the spectrogram.
        hop: samples between two frames.
        mels: frequency bands.
        width: channels of the small CNN's first layer; a multiple of 4.
        norm: normalisation of the small CNN; ``group`` keeps no running statistics.
        transformers: configuration of a transformers model that reads the waveform instead, such as
            ``{model_type: wav2vec2, hidden_size: 32, ...}``.
        pretrained: folder or hub name of such a model with its weights.
        heads: auxiliary heads, which learn from peers only.
        prior_correction: strength of logit adjustment, see ``Classifier``.
        optimizer: makes the peer's own optimizer from its parameters.
        scheduler: makes its learning-rate schedule, which counts local steps.
    """

    modalities = ("audio",)

    def __init__(
        self,
        num_classes: int,
        *,
        sample_rate: int = 8000,
        n_fft: int = 256,
        hop: int = 160,
        mels: int = 24,
        width: int = 16,
        norm: Literal["group", "batch"] = "group",
        transformers: dict[str, Any] | None = None,
        pretrained: str | None = None,
        heads: int = 0,
        prior_correction: float = 0.0,
        optimizer: OptimizerCallable = adam,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        encoder: nn.Module
        if transformers is None and pretrained is None:
            encoder = nn.Sequential(LogMel(sample_rate, n_fft, hop, mels), small_cnn(1, width, norm, first_stride=2))
            dim = 4 * width
        else:
            # Random layer skipping and masking decide by the value of a random number: no step that is
            # vectorised can, so they are off unless asked for.
            quiet = {"layerdrop": 0.0, "apply_spec_augment": False}
            model = transformer({**quiet, **transformers} if transformers else None, pretrained)
            encoder, dim = HiddenMean(model), model.config.hidden_size
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

    def embed(self, x: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """Log-mel spectrogram and CNN, or the mean of a transformer's hidden states."""
        embedding: Tensor = self.encoder(x)
        return embedding


class LogMel(nn.Module):
    """Logarithm of torchaudio's mel spectrogram, normalised sample by sample: ``[batch, 1, mels, frames]``.

    Framed by hand, because ``torch.stft`` has no batching rule and would be run peer by peer. Equal to
    ``torchaudio.transforms.MelSpectrogram(center=False)`` before the logarithm.
    """

    window: Tensor
    bank: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop: int, mels: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        # Not saved: they follow from the arguments, and nobody should send them to anybody.
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        bank = melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, mels, sample_rate)
        self.register_buffer("bank", bank, persistent=False)

    def mel(self, x: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames mels"]:
        """The mel power spectrogram."""
        frames = x.unfold(-1, self.n_fft, self.hop) * self.window
        spectrum = torch.fft.rfft(frames)
        return (spectrum.real.square() + spectrum.imag.square()) @ self.bank

    def forward(self, x: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 1 mels frames"]:
        """Zero mean and unit variance over each sample's bands and frames."""
        log = (self.mel(x) + 1e-6).log()
        mean, spread = log.mean((-2, -1), keepdim=True), log.std((-2, -1), keepdim=True)
        return ((log - mean) / (spread + 1e-5)).transpose(-2, -1).unsqueeze(-3)


class HiddenMean(nn.Module):
    """Mean over time of a transformers model's last hidden state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """Features of a waveform."""
        hidden: Tensor = self.model(x).last_hidden_state
        return hidden.mean(1)
