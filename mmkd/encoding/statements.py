"""How statements become the tensors that are sent, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.bounds import Count, bounded
from mmkd.functional.classification import softmax

Encoded = dict[str, Tensor]
"""Tensors ``[*, samples, ...]`` by the suffix of their name."""
HALF = 2.0**-10
"""A bound of the relative error of rounding to half precision."""


class Wire(ABC):
    """Encodes every sample by itself, so that a sample on which a peer is silent costs nothing."""

    @abstractmethod
    def encode(self, values: Float[Tensor, "*peers samples width"], *, logits: bool) -> Encoded:
        """The tensors that are sent for some statements.

        Args:
            values: one row a sample.
            logits: whether only the softmax of a row matters.
        """

    @abstractmethod
    def decode(
        self, encoded: Mapping[str, Tensor], width: int, *, logits: bool
    ) -> Float[Tensor, "*peers samples width"]:
        """The statements that a receiver reads from these tensors, in single precision."""

    def forms(self, width: int, *, logits: bool) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Shape, samples apart, and type of each tensor that ``encode`` makes, which receivers expect.

        Args:
            width: numbers in a row.
            logits: whether only the softmax of a row matters.
        """
        encoded = self.encode(torch.zeros(1, width), logits=logits)
        return {suffix: (tensor.shape[1:], tensor.dtype) for suffix, tensor in encoded.items()}


class Floats(Wire):
    """Sends the numbers as they are.

    Args:
        precision: of each number.
    """

    def __init__(self, precision: Literal["float32", "float16"] = "float32") -> None:
        self.dtype = torch.float16 if precision == "float16" else torch.float32

    def encode(self, values: Float[Tensor, "*peers samples width"], *, logits: bool) -> Encoded:
        """The numbers as they are sent. In half precision logits are shifted so that the greatest is 0."""
        if logits and self.dtype == torch.float16:
            values = (values - values.amax(-1, keepdim=True)).clamp(min=torch.finfo(torch.float16).min)
        return {"": values.to(self.dtype)}

    def decode(
        self, encoded: Mapping[str, Tensor], width: int, *, logits: bool
    ) -> Float[Tensor, "*peers samples width"]:
        """The numbers as they were sent, in single precision."""
        return encoded[""].float()


class EightBits(Wire):
    """Sends a byte a number, in 255 equal steps over the row's range, and the step in half precision.

    The error of a number is at most half a step. Of logits only differences are kept; of other numbers the
    least is sent, too, rounded down to half precision.
    """

    def encode(self, values: Float[Tensor, "*peers samples width"], *, logits: bool) -> Encoded:
        """Codes, step and least number of each row."""
        least, greatest = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
        encoded = {}
        if not logits:  # what is added to all logits of a row changes nothing, so it need not be sent
            lower = (least - least.abs() * HALF - 1e-7).half()
            encoded[".least"] = torch.where(least.half().to(least.dtype) > least, lower, least.half())
            least = encoded[".least"].to(least.dtype)
        # Rounding the step moves the greatest number by an eighth of a step, which changes no code.
        encoded[".step"] = ((greatest - least) / 255).half()
        codes = (values - least) / encoded[".step"].to(values.dtype).clamp(min=1e-7)
        return {"": codes.round().clamp(0, 255).to(torch.uint8), **encoded}

    def decode(
        self, encoded: Mapping[str, Tensor], width: int, *, logits: bool
    ) -> Float[Tensor, "*peers samples width"]:
        """The numbers that the codes stand for, each at most half a step off."""
        values = encoded[""].float() * encoded[".step"].float()
        return values if logits else values + encoded[".least"].float()


@bounded
class TopClasses(Wire):
    """Sends the most likely classes and their probabilities; the others share the rest equally.

    Embeddings are sent in half precision.

    Args:
        k: classes that are sent.
    """

    def __init__(self, k: Count) -> None:
        self.k = k

    def encode(self, values: Float[Tensor, "*peers samples width"], *, logits: bool) -> Encoded:
        """Probabilities (in half precision) and classes (as bytes, if there are at most 256)."""
        if not logits:
            return {"": values.half()}
        width = values.shape[-1]
        best = softmax(values).topk(min(self.k, width), -1)
        return {
            "": best.values.half(),
            ".classes": best.indices.to(torch.uint8 if width <= 256 else torch.int32),
        }

    def decode(
        self, encoded: Mapping[str, Tensor], width: int, *, logits: bool
    ) -> Float[Tensor, "*peers samples width"]:
        """Logarithms of the probabilities."""
        known = encoded[""].float()
        if not logits:
            return known
        others = width - known.shape[-1]
        # At least what rounding may have hidden: a probability of zero would be more than the sender said.
        rest = (1 - known.sum(-1, keepdim=True)).clamp(min=HALF) / max(others, 1)
        spread = rest.expand(*known.shape[:-1], width)
        full = spread.scatter(-1, encoded[".classes"].long(), known)
        return (full / full.sum(-1, keepdim=True)).clamp(min=torch.finfo(torch.float32).tiny).log()
