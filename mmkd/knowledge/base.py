"""What peers teach, apart from whom they teach and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.types import ConfigError, Predictions


class Targets(NamedTuple):
    """What listeners have learned about public samples."""

    values: Tensor  # [listeners, samples, ...]
    told: Tensor  # [listeners, samples] bool: whether anybody spoke on the sample


class Knowledge(ABC):
    """What is said about public samples, and what a listener makes of it.

    The total loss of a listener is ``alpha * private + (1 - alpha) * distillation``, and the private
    loss alone while nobody has told it anything.

    Args:
        alpha: weight of the private loss.
        samples: ``batch`` speaks about the public batch of the step, in the step, and its targets
            serve that step; ``all`` speaks about the whole public set, and its targets serve public
            batches until the next exchange.
        speak: ``train`` reuses the training forward; ``eval`` runs another in evaluation mode. The
            whole public set is always read in evaluation mode.
        precision: of the numbers on the wire.
    """

    kind: str

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        samples: Literal["batch", "all"] = "batch",
        speak: Literal["train", "eval"] = "train",
        precision: Literal["float32", "float16"] = "float32",
    ) -> None:
        if not 0 <= alpha < 1:
            raise ConfigError(f"knowledge.alpha is {alpha}; it weighs the private loss and lies in [0, 1)")
        self.alpha, self.samples, self.speaks_in = alpha, samples, speak
        self.wire = torch.float16 if precision == "float16" else torch.float32

    @abstractmethod
    def speak(self, predictions: Predictions) -> Float[Tensor, "peers samples ..."]:
        """What peers say, from what they predict."""

    @abstractmethod
    def listen(
        self,
        heard: Float[Tensor, "speakers samples ..."],
        hears: Bool[Tensor, "listeners speakers"],
        spoke: Bool[Tensor, "speakers samples"],
    ) -> Targets:
        """What each listener makes of what it has heard; also what a hub passes on."""

    @abstractmethod
    def loss(
        self,
        predictions: Predictions,
        values: Float[Tensor, "peers samples ..."],
        seen: Bool[Tensor, "peers samples"],
    ) -> Float[Tensor, " peers"]:
        """Distillation loss of each peer, a mean over the samples that it sees and was told about."""

    include_self: bool = True
    """Whether a peer counts among those that it hears (a hub always hears all)."""
