"""The pool: statements of earlier exchanges, which listeners hear again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.functional.random import scores_of_step
from mmkd.knowledge.base import Heard


class Memory(NamedTuple):
    """The statements of one exchange, and who heard whom."""

    tick: int
    heard: dict[str, Heard]  # of everybody
    edges: Int[Tensor, "2 edges"]  # listeners and speakers among everybody


class Pool:
    """The last exchanges; everybody is a speaker once for each of them.

    Args:
        size: number of all speakers.
        length: number of exchanges that are remembered.
    """

    def __init__(self, size: int, length: int) -> None:
        self._size, self._length = size, length
        self._memories: list[Memory] = []

    def add(
        self,
        tick: int,
        heard: Mapping[str, Heard],
        places: Int[Tensor, " there"],
        edges: Int[Tensor, "2 edges"],
    ) -> None:
        """Remember an exchange, and forget the oldest if there are too many.

        Args:
            tick: of the exchange.
            heard: statements of those who took part, who come first, and of others, who are not remembered.
            places: positions of those who took part among everybody.
            edges: listeners and speakers, by those positions.
        """
        spread = {}
        for name, said in heard.items():
            at = places.to(said.spoke.device)
            known = (t[: len(places)] for t in said)
            spread[name] = Heard(*(t.new_zeros(self._size, *t.shape[1:]).index_copy(0, at, t) for t in known))
        self._memories = [*self._memories, Memory(tick, spread, places[edges])][-self._length :]

    @property
    def speakers(self) -> int:
        """Everybody, once for each exchange that is remembered; the last ones come last."""
        return self._size * len(self._memories)

    def edges(self) -> Int[Tensor, "2 edges"]:
        """Listeners and speakers of all exchanges, ordered by listener and then by speaker."""
        shifted = [m.edges + torch.tensor([[0], [i * self._size]]) for i, m in enumerate(self._memories)]
        edges = torch.cat(shifted, 1)
        return edges[:, (edges[0] * self.speakers + edges[1]).argsort()]

    def keys(self, speaks: Int[Tensor, " peers"]) -> Int[Tensor, " speakers"]:
        """The key of every remembered speaker, from the keys of everybody."""
        return torch.cat([scores_of_step(speaks, memory.tick) for memory in self._memories])

    def heard(self, ids: Tensor | None) -> dict[str, Heard]:
        """Statements of all speakers about some samples, or about all, if None."""
        heard = {}
        names = {name: said for memory in self._memories for name, said in memory.heard.items()}
        for name, like in names.items():
            nobody = Heard(*(torch.zeros_like(t) for t in like))
            parts = [memory.heard.get(name, nobody) for memory in self._memories]
            values, spoke = (torch.cat([part[i] for part in parts]) for i in (0, 1))
            heard[name] = Heard(values, spoke) if ids is None else Heard(values[:, ids], spoke[:, ids])
        return heard

    def staleness(self, tick: int) -> float | None:
        """Mean age in ticks of what listeners hear; None, if nothing is remembered."""
        ages = [(tick - memory.tick, memory.edges.shape[1]) for memory in self._memories]
        count = sum(number for _, number in ages)
        return sum(age * number for age, number in ages) / count if count else None

    def state_dict(self) -> list[Any]:
        """All exchanges that are remembered, for a checkpoint."""
        return [[m.tick, {n: [*said] for n, said in m.heard.items()}, m.edges] for m in self._memories]

    def load_state_dict(self, saved: list[Any], device: torch.device) -> None:
        """Go on with a saved pool."""
        self._memories = [
            Memory(tick, {n: Heard(*(t.to(device) for t in said)) for n, said in heard.items()}, edges)
            for tick, heard, edges in saved
        ]
