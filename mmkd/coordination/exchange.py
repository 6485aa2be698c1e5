"""One exchange of knowledge: everybody speaks, then everybody listens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkd.coordination.delivery import Post
from mmkd.encoding.messages import sizes
from mmkd.encoding.samples import pack, unpack
from mmkd.functional.classification import softmax
from mmkd.functional.neighbours import neighbours
from mmkd.functional.random import key, scores_of_step
from mmkd.knowledge.base import Heard, Knowledge, Targets
from mmkd.topology import Topology
from mmkd.types import ConfigError, Payload

Told = dict[str, Targets]
"""Targets ``[listeners, samples, ...]`` by the name of a statement."""

SUFFIXES = ("", ".step", ".least", ".classes")
"""Of the tensors that a wire makes of a statement."""


class Speech(NamedTuple):
    """What speakers of one group have to say."""

    speakers: list[str]
    statements: Mapping[str, Tensor]  # each [speakers, samples, width]
    spoken: Tensor  # [speakers, samples] bool


def joined(parts: Sequence[Speech]) -> Speech:
    """One speech of several of the same kind."""
    if len(parts) == 1:
        return parts[0]
    statements = {n: torch.cat([part.statements[n] for part in parts]) for n in parts[0].statements}
    speakers = [name for part in parts for name in part.speakers]
    return Speech(speakers, statements, torch.cat([part.spoken for part in parts]))


class Memory(NamedTuple):
    """What was heard in one exchange."""

    tick: int
    heard: dict[str, Heard]
    hears: Tensor  # [everybody, everybody] bool


class Exchange:
    """Carries statements over a graph, and lets listeners make something of them.

    Args:
        knowledge: what is said, and what listeners make of it.
        everybody: all who may speak, in canonical order.
        ids: what keys the draws of each, in the same order.
        post: carries what is said.
        topology: who hears whom.
        seed: keys the draws.

    Raises:
        ConfigError: the graph has no meaning for them, or teachers or a pool are too many.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        everybody: list[str],
        ids: Sequence[str],
        post: Post,
        topology: Topology,
        seed: int,
    ) -> None:
        self.knowledge, self.everybody, self.topology, self._post = knowledge, everybody, topology, post
        self._place = {name: i for i, name in enumerate(everybody)}
        self._streams = torch.tensor([[key(seed, it, role) for role in ("listens", "speaks")] for it in ids])
        self._pool: list[Memory] = []
        self._drawn: tuple[list[str], Tensor] = ([], torch.empty(0))
        topology.check(everybody)
        topology.adjacency(everybody, 0)
        if knowledge.teachers is not None and knowledge.teachers >= len(ids) > 1:
            raise ConfigError(
                f"knowledge.teachers is {knowledge.teachers}, but there are only {len(ids) - 1} others"
            )
        if knowledge.pool > 1 and topology.hub is not None:
            raise ConfigError(
                "knowledge.pool is kept by listeners, who hear a hub's answer only: choose a graph"
            )

    @torch.no_grad()
    def __call__(
        self,
        names: list[str],
        speeches: Sequence[Speech],
        tick: int,
        round: int,
        deaf: Collection[str] = (),
    ) -> Told:
        """Everybody in ``names`` speaks, then each of them listens; nothing, if nobody had anything to say.

        Args:
            names: those who are there.
            speeches: what some of them say.
            tick: keys the draws.
            round: of the graph and of the payloads.
            deaf: those who speak and do not listen.
        """
        speeches = [speech for speech in speeches if speech.statements]
        if not speeches:
            return {}
        knowledge, hub = self.knowledge, self.topology.hub
        encoded = [self.encode(speech) for speech in speeches]
        own = torch.eye(len(names), dtype=torch.bool)
        hears = ~own if hub is not None else self._graph(names, round)
        hears[[i for i, name in enumerate(names) if name in deaf]] = False
        if knowledge.teachers is not None:
            streams = self._streams[self._places(names)]
            hears = self._draw(hears, streams[:, 0], streams[:, 1], knowledge.teachers, tick)
        if self._post.at_hand and all(bool(speech.spoken.all()) for speech in speeches):
            self._post.count(knowledge.kind, round, self._sizes(speeches, encoded, round), names, hears, hub)
        else:
            letters = _letters(speeches, encoded)
            inbox = self._post.gather(knowledge.kind, round, letters, names, hears, hub)
            if not self._post.at_hand:
                speeches, encoded = _open(speeches, inbox)
        heard = self.assemble(names, speeches, encoded)
        device = speeches[0].spoken.device
        hears, own = hears.to(device), own.to(device)
        if hub is not None:
            if not knowledge.personal:  # all would make the same of it
                hears, own = torch.ones_like(own[:1]), torch.zeros_like(own[:1])
            return self._relay(knowledge.listen(heard, hears, own), names, round, hub, deaf)
        if knowledge.pool > 1:
            return self._remember(names, heard, hears, tick)
        return knowledge.listen(heard, hears, own)

    def _graph(self, names: list[str], round: int) -> Tensor:
        """Whom each of ``names`` hears; a graph that does not change is looked up once."""
        asked = [*names, "" if self.topology.fixed else str(round)]
        if self._drawn[0] != asked:
            self._drawn = asked, self.topology.within(names, self.everybody, round)
        return self._drawn[1].clone()

    # --- speaking ----------------------------------------------------------------------------------

    def _sizes(
        self, speeches: Sequence[Speech], encoded: Sequence[Mapping[str, Tensor]], round: int
    ) -> dict[str, tuple[int, int]]:
        """Bytes and framing of letters that need not be written, for those of a speech are alike."""
        found: dict[str, tuple[int, int]] = {}
        for speech, tensors in zip(speeches, encoded, strict=True):
            example = Payload("", self.knowledge.kind, round, {n: t[0] for n, t in tensors.items()})
            found |= zip(speech.speakers, sizes(example, speech.speakers), strict=True)
        return found

    def encode(self, speech: Speech) -> dict[str, Tensor]:
        """What is sent of a speech, ``[speakers, samples, ...]``."""
        knowledge, encoded = self.knowledge, {}
        for name, values in speech.statements.items():
            for suffix, tensor in knowledge.wire.encode(values, logits=knowledge.is_logits(name)).items():
                encoded[name + suffix] = tensor
        return encoded

    def assemble(
        self, names: list[str], speeches: Sequence[Speech], encoded: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Heard]:
        """Every statement of all speakers, in the order of ``names``."""
        knowledge, heard = self.knowledge, dict[str, Heard]()
        where = {name: i for i, name in enumerate(names)}
        for speech, tensors in zip(speeches, encoded, strict=True):
            places = [where[name] for name in speech.speakers]
            for name, like in speech.statements.items():
                parts = {s: tensors[name + s] for s in SUFFIXES if name + s in tensors}
                values = knowledge.wire.decode(parts, like.shape[-1], logits=knowledge.is_logits(name))
                if places == list(range(len(names))):
                    heard[name] = Heard(values, speech.spoken)
                    continue
                if name not in heard:
                    shape = (len(names), *values.shape[1:])
                    blank = torch.zeros(shape[:2], dtype=torch.bool, device=values.device)
                    heard[name] = Heard(values.new_zeros(shape), blank)
                heard[name].values[places], heard[name].spoke[places] = values, speech.spoken
        return heard

    def _places(self, names: Sequence[str]) -> Tensor:
        """Where names stand among everybody."""
        return torch.tensor([self._place[name] for name in names])

    @staticmethod
    def _draw(hears: Tensor, listens: Tensor, speaks: Tensor, count: int, tick: int) -> Tensor:
        """At most ``count`` of those that each listener hears, drawn for this tick.

        Args:
            hears: ``[listeners, speakers]``.
            listens: key of each listener.
            speaks: key of each speaker; a pair's own number comes of both.
            count: how many.
            tick: when.
        """
        place, there = neighbours(hears)
        pairs = scores_of_step(listens.to(place.device)[:, None] ^ speaks.to(place.device)[place], tick)
        best = pairs.masked_fill(~there, -1).topk(min(count, place.shape[1]), 1).indices
        listener, slot = there.gather(1, best).nonzero().unbind(1)
        drawn = torch.zeros_like(hears)
        drawn[listener, place[listener, best[listener, slot]]] = True
        return drawn

    # --- listening ---------------------------------------------------------------------------------

    def _relay(self, told: Told, names: list[str], round: int, hub: str, deaf: Collection[str]) -> Told:
        """The hub tells each listener, or all of them the same, what it has made for them."""
        letters, arrived = self.describe(told)
        for i, letter in enumerate(letters):
            to = names if len(letters) < len(names) else names[i : i + 1]
            listening = [name for name in to if name not in deaf]
            self._post.spread(self.knowledge.kind, round, letter, listening, hub)
        return {
            n: Targets(*(t.expand(len(names), *t.shape[1:]) for t in pair)) for n, pair in arrived.items()
        }

    def describe(self, told: Told) -> tuple[list[dict[str, Tensor]], Told]:
        """Targets as letters, one a listener, and as they arrive."""
        knowledge, arrived = self.knowledge, Told()
        letters: list[dict[str, Tensor]] = [{} for _ in next(iter(told.values())).weight]
        spoken = torch.stack([weight != 0 for _, weight in told.values()]).any(0)
        for name, (values, weight) in told.items():
            logits = knowledge.is_logits(name)
            said = values.log().clamp(min=-60.0) if logits else values  # whose exponential is nothing
            parts = knowledge.wire.encode(said, logits=logits)
            back = knowledge.wire.decode(parts, values.shape[-1], logits=logits)
            if not torch.equal(weight, spoken.to(weight.dtype)):
                parts[".weight"] = weight.half()
                weight = parts[".weight"].to(weight.dtype)
            for i, letter in enumerate(letters):
                letter |= {name + suffix: tensor[i] for suffix, tensor in parts.items()}
            arrived[name] = Targets(softmax(back) if logits else back, weight)
        return [pack(letter, row) for letter, row in zip(letters, spoken, strict=True)], arrived

    def _remember(self, names: list[str], heard: dict[str, Heard], hears: Tensor, tick: int) -> Told:
        """Add to the pool what was heard now, and listen to all that is in it."""
        size = len(self.everybody)
        places = self._places(names).to(hears.device)
        wide = hears.new_zeros(size, size)
        wide[places[:, None], places] = hears
        spread = {}
        for name, said in heard.items():
            spread[name] = Heard(*(t.new_zeros(size, *t.shape[1:]).index_copy(0, places, t) for t in said))
        self._pool = [*self._pool, Memory(tick, spread, wide)][-self.knowledge.pool :]
        told = self.recall(None, None)
        return {n: Targets(values[places], weight[places]) for n, (values, weight) in told.items()}

    @torch.no_grad()
    def recall(self, ids: Tensor | None, tick: int | None) -> Told:
        """What everybody makes of its pool.

        Args:
            ids: samples; all, if None.
            tick: at which each draws ``knowledge.recall`` entries; it takes all, if None.
        """
        knowledge = self.knowledge
        hears = torch.cat([memory.hears for memory in self._pool], 1)
        if tick is not None and knowledge.recall is not None:
            speaks = torch.cat([scores_of_step(self._streams[:, 1], memory.tick) for memory in self._pool])
            hears = self._draw(hears, self._streams[:, 0], speaks, knowledge.recall, tick)
        own = torch.zeros_like(hears)
        own[:, -len(own) :].fill_diagonal_(True)  # what one said oneself is not stale
        heard = {}
        for name, like in {n: said for memory in self._pool for n, said in memory.heard.items()}.items():
            nobody = Heard(*(torch.zeros_like(t) for t in like))
            parts = [memory.heard.get(name, nobody) for memory in self._pool]
            values, spoke = (torch.cat([part[i] for part in parts]) for i in (0, 1))
            heard[name] = Heard(values, spoke) if ids is None else Heard(values[:, ids], spoke[:, ids])
        return knowledge.listen(heard, hears, own)

    def staleness(self, tick: int) -> float | None:
        """Mean age in ticks of what listeners hear from their pools, if they keep any."""
        ages = [(tick - memory.tick, int(memory.hears.sum())) for memory in self._pool]
        count = sum(number for _, number in ages)
        return sum(age * number for age, number in ages) / count if count else None

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> list[Any]:
        """The pool."""
        return [[tick, {n: [*said] for n, said in heard.items()}, hears] for tick, heard, hears in self._pool]

    def load_state_dict(self, saved: list[Any], device: torch.device) -> None:
        """Go on with a saved pool."""
        self._pool = [
            Memory(
                tick, {n: Heard(*(t.to(device) for t in said)) for n, said in heard.items()}, hears.to(device)
            )
            for tick, heard, hears in saved
        ]


def _letters(
    speeches: Sequence[Speech], encoded: Sequence[Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """What each speaker sends."""
    letters: dict[str, dict[str, Tensor]] = {}
    for speech, tensors in zip(speeches, encoded, strict=True):
        for i, (name, spoken) in enumerate(zip(speech.speakers, speech.spoken, strict=True)):
            letters[name] = pack({n: t[i] for n, t in tensors.items()}, spoken)
    return letters


def _open(
    speeches: Sequence[Speech], inbox: Mapping[str, Payload]
) -> tuple[list[Speech], list[dict[str, Tensor]]]:
    """Speeches one by one, as they arrived."""
    arrived, encoded = [], []
    for speech in speeches:
        for i, name in enumerate(speech.speakers):
            if name in inbox:
                letter, spoken = unpack(inbox[name].tensors, speech.spoken.shape[1])
                statements = {n: values[i : i + 1] for n, values in speech.statements.items()}
                arrived.append(Speech([name], statements, spoken[None]))
                encoded.append({n: tensor[None] for n, tensor in letter.items()})
    return arrived, encoded
