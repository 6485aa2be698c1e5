"""What a device was told about samples: it need not ask again about one that is almost the same."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmkd.bounds import Positive, Size, SomeShare, bounded
from mmkd.caching import Eviction, LeastRecentlyUsed, Seen
from mmkd.caching.eviction import kept
from mmkd.types import PeerName

ROUNDING = 1e-6
"""By how much the cosine of a vector with itself may be off."""


class Told(NamedTuple):
    """What was told about a sample."""

    probabilities: Float[Tensor, " classes"]
    by: list[PeerName]
    age: float  # seconds


@bounded
class RequestCache:
    """Answers of others, by the device's own embedding of the sample (as in FoggyCache: Guo et al. 2018).

    Args:
        near: cosine of two embeddings from which on an answer about one serves for the other; at 1 they
            are of the same direction.
        seconds: for which an answer may serve.
        entries: the most that are kept.
        eviction: which goes where there are more; ticks are questions.
    """

    def __init__(
        self,
        near: SomeShare = 1.0,
        seconds: Positive = 3600.0,
        entries: Size = 1024,
        eviction: Eviction | None = None,
    ) -> None:
        self.near, self.seconds, self.entries = near, seconds, entries
        self.eviction = eviction or LeastRecentlyUsed()
        self._embedded = torch.zeros(0, 0)  # [entries, dim], of length 1
        self._told: list[tuple[Tensor, list[PeerName], float]] = []
        none = torch.zeros(1, 0, dtype=torch.int64)
        self._seen = Seen(none, none, none, none.float())
        self._tick = 0
        self.hits = self.misses = 0

    def find(self, embedding: Float[Tensor, " dim"], now: float) -> Told | None:
        """What was told about the nearest sample, if it is near and fresh; None, if there is no such.

        Args:
            embedding: of the sample.
            now: seconds of a clock that does not go back.
        """
        self._tick += 1
        self._let_go([now - when > self.seconds for _, _, when in self._told])
        best, place = -inf, 0
        if self._told and self._embedded.shape[1] == len(embedding):
            cosine = self._embedded @ F.normalize(embedding, dim=0)
            best, place = float(cosine.max()), int(cosine.argmax())
        if best < self.near - ROUNDING:
            self.misses += 1
            return None
        self.hits += 1
        self._seen.used[0, place] = self._tick
        self._seen.uses[0, place] += 1
        probabilities, by, when = self._told[place]
        return Told(probabilities, by, now - when)

    def keep(
        self,
        embedding: Float[Tensor, " dim"],
        told: Float[Tensor, " classes"],
        by: Sequence[PeerName],
        now: float,
    ) -> None:
        """Keep what was told about a sample."""
        if self._told and self._embedded.shape[1] != len(embedding):  # of another student
            self._let_go([True] * len(self._told))
        one = F.normalize(embedding, dim=0)[None]
        self._embedded = torch.cat([self._embedded, one]) if self._told else one
        self._told.append((told, list(by), now))
        new = (self._tick, self._tick, 1, 0.0)
        self._seen = Seen(*(F.pad(t, (0, 1), value=v) for t, v in zip(self._seen, new, strict=True)))
        if len(self._told) > self.entries:
            held = torch.ones(1, len(self._told), dtype=torch.bool)
            stay = kept(self.eviction.worth(self._seen, self._tick), held, self.entries)
            self._let_go((~stay[0]).tolist())

    def _let_go(self, gone: Sequence[bool]) -> None:
        if not any(gone):
            return
        stay = [place for place, goes in enumerate(gone) if not goes]
        self._embedded = self._embedded[stay]
        self._told = [self._told[place] for place in stay]
        self._seen = Seen(*(t[:, stay] for t in self._seen))
