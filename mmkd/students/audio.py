"""Students that read sound."""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmkd.bounds import BelowOne, Size, bounded
from mmkd.functional.padding import group_norm, mirrored, standardised
from mmkd.students.adapting import Trained, adapt
from mmkd.students.base import Classifier
from mmkd.students.hub import HubEncoder, hub_encoder
from mmkd.students.settings import refuse_unread, settings_of
from mmkd.students.waveforms import embed_padded
from mmkd.types import ConfigError, Padded

Waveform = Float[Tensor, "batch samples"]
"""Sound, one number for each sampled moment."""
Lengths = Int[Tensor, " batch"]
"""How many moments of each waveform of a batch are no padding."""


class LogMel(nn.Module):
    """Logarithm of a mel spectrogram, with zero mean and unit variance in every sample.

    The spectrogram is that of ``torchaudio.transforms.MelSpectrogram``. It is framed here because
    ``torch.stft`` has no batching rule: under ``vmap`` it runs peer by peer, and warns.

    Args:
        sample_rate: samples per second.
        n_fft: samples in a frame.
        hop: samples from one frame to the next.
        mels: number of mel bands.
    """

    window: Tensor
    bank: Tensor

    def __init__(self, *, sample_rate: int, n_fft: int, hop: int, mels: int) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.n_fft, self.hop = n_fft, hop
        bank = melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, mels, sample_rate)
        # Not saved, hence neither stacked nor sent, because they follow from the arguments.
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("bank", bank, persistent=False)

    def power(self, x: Waveform, lengths: Lengths | None = None) -> Float[Tensor, "batch frames mels"]:
        """Compute the mel power spectrogram.

        Raises:
            ConfigError: the (longest) recording is not longer than half a frame.
        """
        edge = self.n_fft // 2
        if x.shape[-1] <= edge:
            raise ConfigError(
                f"a recording of {x.shape[-1]} samples is too short for frames of {self.n_fft}; it needs"
                f" more than {edge}: lower n_fft"
            )
        if lengths is not None:
            padded = mirrored(x, lengths, edge)
        else:
            # Under vmap joining mirrored ends is ten times faster than F.pad(mode="reflect").
            padded = torch.cat([x[:, 1 : edge + 1].flip(-1), x, x[:, -edge - 1 : -1].flip(-1)], -1)
        spectrum: Tensor = torch.fft.rfft(padded.unfold(-1, self.n_fft, self.hop) * self.window)
        parts = torch.view_as_real(spectrum).flatten(-2).square()
        return parts @ self.bank.repeat_interleave(2, 0)  # real and imaginary parts lie side by side

    def frames(self, lengths: Lengths) -> Lengths:
        """How many frames recordings of these lengths have."""
        return ((lengths + self.n_fft // 2 * 2 - self.n_fft) // self.hop + 1).clamp(min=1)

    def forward(self, x: Waveform, lengths: Lengths | None = None) -> Float[Tensor, "batch mels frames"]:
        """Compute the normalised logarithm, which is 0 for silence and behind the end of a recording.

        Args:
            x: recordings.
            lengths: how much of each is there; all, if left out.
        """
        log = (self.power(x, lengths) + 1e-6).log()
        if lengths is not None:
            # One sequence a recording, of all bands of one frame after those of another.
            frames = self.frames(lengths) * log.shape[-1]
            return standardised(log.flatten(1), frames, eps=1e-5).view_as(log).transpose(-2, -1)
        centred = log - log.mean((-2, -1), keepdim=True)
        deviation = (centred.square().mean((-2, -1), keepdim=True) + 1e-5).sqrt()
        return (centred / deviation).transpose(-2, -1)


class SmallAudioCNN(nn.Module):
    """A log-mel front end and three convolutions over time, then the mean over time.

    Args:
        front: computes spectrograms ``[batch, mels, frames]`` of waveforms.
        mels: number of the spectrogram's bands.
        width: channels of the first convolution; the later ones have one and a half times as many.
    """

    def __init__(self, front: LogMel, *, mels: int, width: int) -> None:
        super().__init__()
        self.front = front
        layers: list[nn.Module] = []
        before = mels
        for channels in (width, width * 3 // 2, width * 3 // 2):
            layers += [
                nn.Conv1d(before, channels, 5, stride=2, padding=2, bias=False),
                nn.GroupNorm(gcd(8, channels), channels),
                nn.ReLU(),
            ]
            before = channels
        self.net = nn.Sequential(*layers)
        self.dim = before

    def forward(self, x: Waveform, lengths: Lengths | None = None) -> Float[Tensor, "batch dim"]:
        """Embed recordings; ``lengths`` says how much of each is there, all if left out."""
        features: Tensor = self.front(x, lengths)
        if lengths is None:
            return self.net(features).mean(-1)  # type: ignore[no-any-return]  # a Tensor
        frames = self.front.frames(lengths)
        for layer in self.net:
            if isinstance(layer, nn.GroupNorm):
                features = group_norm(features, frames, layer.num_groups, layer.weight, layer.bias, layer.eps)
            else:
                features = layer(features)
            if isinstance(layer, nn.Conv1d):
                frames = (frames + 1) // 2  # of stride 2, with as much padding as keeps the ends
        return features.sum(-1) / frames.unsqueeze(-1)


@bounded
class AudioStudent(Classifier):
    """A student that reads waveforms ``[batch, samples]``, or ``Padded`` ones, whose padding changes nothing.

    It is a small convolutional network on a log-mel spectrogram, unless ``transformers`` or
    ``pretrained`` names a model that reads the raw waveform, such as ``{"model_type": "wav2vec2",
    "hidden_size": 32, ...}``.

    Args:
        num_classes: number of classes, the same for every peer of a cohort.
        sample_rate: samples per second.
        n_fft: samples in a frame of the spectrogram.
        hop: samples from one frame to the next.
        mels: number of the spectrogram's bands.
        width: channels of the first convolution.
        transformers: ``model_type`` and settings of a transformers model with random weights.
        pretrained: folder of a transformers model to start from.
        dropout: share of the embedding that is dropped in training.
        trained: ``all``; ``head``, on an encoder that stays as it is, in evaluation; or arguments of
            ``Lora``, for adapters beside it. What is not trained is not exchanged.
        kwargs: arguments of ``Classifier``.

    Raises:
        ConfigError: the transformers model cannot be built, or a setting would have no effect on it.
    """

    modalities = ("audio",)

    def __init__(
        self,
        num_classes: int,
        *,
        sample_rate: Size = 8000,
        n_fft: Size = 256,
        hop: Size = 128,
        mels: Size = 32,
        width: Size = 40,
        transformers: dict[str, Any] | None = None,
        pretrained: str | None = None,
        dropout: BelowOne = 0.0,
        trained: Trained = "all",
        **kwargs: Any,
    ) -> None:
        settings = settings_of(locals())
        encoder: nn.Module
        if transformers is None and pretrained is None:
            front = LogMel(sample_rate=sample_rate, n_fft=n_fft, hop=hop, mels=mels)
            encoder = small = SmallAudioCNN(front, mels=mels, width=width)
            dim = small.dim
        else:
            refuse_unread(
                AudioStudent,
                settings,
                ["n_fft", "hop", "mels", "width"],
                reader="the small network",
                given="a transformers model",
            )
            encoder, settings["transformers"] = hub_encoder(transformers, pretrained)
            settings["pretrained"] = None  # a checkpoint brings its own weights
            dim = encoder.dim
        super().__init__(num_classes, dim=dim, **kwargs)
        self.save_hyperparameters(settings)
        self.encoder = encoder
        self.still = adapt(encoder, "encoder", trained, type(self).__name__)
        self.raw = transformers is not None or pretrained is not None
        self.dropout = nn.Dropout(dropout)

    def embed(self, x: Waveform | Padded) -> Float[Tensor, "batch dim"]:
        """Embed recordings."""
        if isinstance(x, Padded):
            return self._embed_padded(*x)
        if self.raw:  # models that read raw sound were trained on normalised sound
            x = x - x.mean(-1, keepdim=True)
            x = x / (x.square().mean(-1, keepdim=True) + 1e-7).sqrt()
        embedding: Tensor = self.dropout(self.encoder(x))
        return embedding

    def _embed_padded(self, x: Waveform, lengths: Lengths) -> Float[Tensor, "batch dim"]:
        model = self.encoder.model if isinstance(self.encoder, HubEncoder) else None
        if model is None:
            embedding: Tensor = self.encoder(x, lengths)
        else:
            embedding = embed_padded(model, standardised(x, lengths, eps=1e-7), lengths)
        dropped: Tensor = self.dropout(embedding)
        return dropped
