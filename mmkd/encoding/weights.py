"""Compression of weights before they are sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmkd.bounds import SomeShare, bounded
from mmkd.functional.compression import from_quantised, from_top_k, quantise, top_k
from mmkd.functional.random import generator
from mmkd.functional.trees import Tree
from mmkd.types import ConfigError


class Compression(ABC):
    """A way to encode weights in fewer bytes, each row of each leaf by itself.

    Args:
        error_feedback: whether a sender adds what compression lost to what it says next
            (Karimireddy et al. 2019), so that nothing is lost for good.
    """

    def __init__(self, *, error_feedback: bool = True) -> None:
        self.error_feedback = error_feedback

    @abstractmethod
    def encode(self, tree: Mapping[str, Tensor], streams: Sequence[tuple[int | str, ...]]) -> Tree:
        """Smaller tensors; ``streams`` key the random numbers of each row."""

    @abstractmethod
    def decode(self, encoded: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tree:
        """The tensors that a receiver reads from them, shaped as the rows of ``like``."""

    def example(self, like: Mapping[str, Tensor]) -> Tree:
        """What ``encode`` makes of zeros like a row of ``like``; receivers expect its names and shapes."""
        return self.encode({n: torch.zeros_like(leaf[:1]) for n, leaf in like.items()}, [("example",)])


@bounded
class TopK(Compression):
    """Sends the largest entries of each leaf: values and int32 positions.

    Args:
        fraction: of the entries, at least one a leaf.
        error_feedback: see ``Compression``.
    """

    def __init__(self, fraction: SomeShare = 0.1, *, error_feedback: bool = True) -> None:
        super().__init__(error_feedback=error_feedback)
        self.fraction = fraction

    def encode(self, tree: Mapping[str, Tensor], streams: Sequence[tuple[int | str, ...]]) -> Tree:
        """Values and positions of the largest entries."""
        encoded = {}
        for name, leaf in tree.items():
            flat = leaf.flatten(1) if leaf.dim() > 1 else leaf[:, None]
            kept = max(1, round(self.fraction * flat.shape[1]))
            encoded[f"{name}.values"], encoded[f"{name}.places"] = top_k(flat, kept)
        return encoded

    def decode(self, encoded: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tree:
        """The entries that were sent, and zeros."""
        return {
            name: from_top_k(encoded[f"{name}.values"], encoded[f"{name}.places"], leaf[0].numel()).view(
                -1, *leaf.shape[1:]
            )
            for name, leaf in like.items()
        }


class Quantise(Compression):
    """Sends 8 or 4 bits an entry and one scale a leaf, rounded at random without bias.

    Args:
        bits: 8 or 4.
        seed: keys the rounding.
        error_feedback: see ``Compression``.
    """

    def __init__(self, bits: int = 8, seed: int = 0, *, error_feedback: bool = True) -> None:
        if bits not in (4, 8):
            raise ConfigError(f"Quantise sends 4 or 8 bits an entry, not {bits}")
        super().__init__(error_feedback=error_feedback)
        self.bits, self.seed = bits, seed

    def encode(self, tree: Mapping[str, Tensor], streams: Sequence[tuple[int | str, ...]]) -> Tree:
        """Codes of the entries, and a scale for each leaf."""
        encoded = {}
        sources = [generator(self.seed, "quantise", *stream) for stream in streams]
        for name, leaf in tree.items():
            flat = leaf.reshape(len(leaf), -1)
            size = flat.shape[1]
            noise = torch.stack([torch.rand(size, generator=source, dtype=leaf.dtype) for source in sources])
            codes, scale = quantise(flat, self.bits, noise.to(leaf.device))
            encoded[f"{name}.codes"], encoded[f"{name}.scale"] = codes, scale
        return encoded

    def decode(self, encoded: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tree:
        """The entries that the codes stand for."""
        return {
            name: from_quantised(
                encoded[f"{name}.codes"], encoded[f"{name}.scale"], self.bits, leaf[0].numel()
            ).view(-1, *leaf.shape[1:])
            for name, leaf in like.items()
        }
