"""A device that answers when it is sure, and asks larger peers when it is not."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.bounds import Count, Positive, Share, bounded
from mmkd.edge.graph import Graph
from mmkd.edge.questions import CHANCES, Question, place, question, read_answer
from mmkd.edge.remembering import RequestCache
from mmkd.encoding.messages import encode
from mmkd.files import replacing
from mmkd.types import Classes, ConfigError, Payload, PeerName, Views

REMEMBERED = 10_000
"""Answers of others that a device keeps, the newest."""
PAUSE = 0.02
"""Seconds before a question is asked again that nobody took."""


class Answer(NamedTuple):
    """What a sample was found to be."""

    probabilities: Float[Tensor, " classes"]
    by: list[PeerName]  # who answered, now or as this was asked before; nobody, if the device did itself
    asked: bool  # whether others were asked now
    seconds: float


@bounded
class Cascade:
    """A device and the peers that it asks.

    Every sample is answered within ``patience``, and a little for the device's own student: by those of the
    others who have answered rightly by then, of whose probabilities the mean counts; by the device, if it is
    sure or nobody has.

    Args:
        graph: of the device's student, a classifier.
        session: of Zenoh.
        study: that devices and services share.
        device: its name.
        peers: who are asked, all at once.
        threshold: greatest probability below which the device asks.
        patience: seconds.
        tries: how often each is asked within them.
        holders: process of each peer, where certificates say so; anybody, if left out.
        remembers: what the device was told, so that it need not ask again; nothing, if left out.

    Raises:
        ConfigError: nobody is asked, the device asks itself, or its student is no classifier.
    """

    def __init__(
        self,
        graph: Graph,
        session: Any,
        study: str,
        device: PeerName,
        peers: Sequence[PeerName],
        *,
        threshold: Share,
        patience: Positive = 1.0,
        tries: Count = 2,
        holders: Mapping[PeerName, str] | None = None,
        remembers: RequestCache | None = None,
    ) -> None:
        if not peers or device in peers:
            raise ConfigError("a cascade asks at least one peer, and not the device itself")
        if graph.student.gives is not Classes:
            raise ConfigError(f"a cascade is of a classifier, and {type(graph.student).__name__} is none")
        self._graph, self._session, self._device, self._peers = graph, session, device, list(peers)
        self._keys = {peer: place(study, (holders or {}).get(peer, "*"), peer) for peer in peers}
        self._threshold, self._patience, self._tries = threshold, patience, tries
        self._remembers = remembers
        self._numbers = count()
        self._heard: deque[tuple[tuple[Tensor, ...], Tensor]] = deque(maxlen=REMEMBERED)
        self.counts = Counter[str]()
        """Samples that were answered alone, remembered, asked about, and asked about in vain; answers that
        were refused; bytes sent and received."""

    async def answer(self, sample: Views) -> Answer:
        """Answer about one sample ``[1, ...]``.

        Raises:
            ConfigError: it is not one sample, or not of the kind that the student reads.
        """
        start = time.monotonic()
        arguments = self._graph.arguments(sample)
        if len(arguments[0]) != 1:
            raise ConfigError(f"a cascade answers about one sample at a time, not {len(arguments[0])}")
        with torch.no_grad():
            own: Tensor = self._graph(*arguments)[1][0]
        if float(own.max()) >= self._threshold:
            self.counts["alone"] += 1
            return Answer(own, [], False, time.monotonic() - start)
        embedding = None if self._remembers is None else self._graph.embedding(arguments)[0]
        if self._remembers is not None and embedding is not None:
            told = self._remembers.find(embedding, start)
            if told is not None:
                self.counts["remembered"] += 1
                return Answer(told.probabilities, told.by, False, time.monotonic() - start)
        self.counts["asked"] += 1
        until = start + self._patience
        found = await asyncio.gather(*(self._ask(p, arguments, len(own), until) for p in self._peers))
        others = {p: chances for p, chances in zip(self._peers, found, strict=True) if chances is not None}
        if not others:
            self.counts["in vain"] += 1
            return Answer(own, [], True, time.monotonic() - start)
        mean = torch.stack([*others.values()]).mean(0)
        self._heard.append((arguments, mean))
        if self._remembers is not None and embedding is not None:
            self._remembers.keep(embedding, mean, [*others], start)
        return Answer(mean, [*others], True, time.monotonic() - start)

    async def _ask(
        self, peer: PeerName, arguments: tuple[Tensor, ...], classes: int, until: float
    ) -> Float[Tensor, " classes"] | None:
        """What one peer answers, again and again until it does or time is up; None, if it does not."""
        number = next(self._numbers)
        asked = Question(self._device, number, arguments, max(1e-3, until - time.monotonic()))
        message = question(asked, self._graph.inputs)
        read = partial(read_answer, peer=peer, number=number, classes=classes)
        for left in range(self._tries, 0, -1):
            patience = (until - time.monotonic()) / left
            if patience <= 0:
                return None
            self.counts["sent"] += len(message)
            found = await self._once(self._keys[peer], message, patience, read)
            if found is not None:
                return found
            await asyncio.sleep(min(PAUSE, max(0.0, until - time.monotonic())))
        return None

    async def _once(
        self, key: str, message: bytes, patience: float, read: Callable[[bytes], Tensor]
    ) -> Tensor | None:
        """The first reply to a message that can be read; None, if there is none in time."""
        from zenoh import CongestionControl, ConsolidationMode
        from zenoh.handlers import Callback

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Tensor | None] = loop.create_future()

        def settle(reply: bytes | None) -> None:
            if future.done():
                return
            if reply is None:  # all have replied who would
                future.set_result(None)
                return
            self.counts["received"] += len(reply)
            try:
                future.set_result(read(reply))
            except ValueError:
                self.counts["refused"] += 1

        def later(reply: bytes | None) -> None:  # in a thread of Zenoh's
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, reply)

        def arrives(reply: Any) -> None:
            if reply.ok is not None:
                later(reply.ok.payload.to_bytes())

        self._session.get(
            key,
            Callback(arrives, lambda: later(None)),
            payload=message,
            timeout=patience,
            consolidation=ConsolidationMode.NONE,  # replies as they come
            congestion_control=CongestionControl.DROP,  # who takes nothing must not keep the device waiting
        )
        try:
            return await asyncio.wait_for(future, patience)
        except TimeoutError:
            return None

    def save(self, path: str | Path) -> int:
        """Write what others have answered, for the device to learn from; returns how many samples that are.

        The file is one of safetensors: the samples by the names of the graph's inputs, and probabilities.

        Raises:
            ConfigError: nobody has answered anything.
        """
        if not self._heard:
            raise ConfigError("nobody has answered anything that could be kept")
        samples, chances = zip(*self._heard, strict=True)
        tensors = {
            n: torch.cat(parts)
            for n, parts in zip(self._graph.inputs, zip(*samples, strict=True), strict=True)
        }
        tensors[CHANCES] = torch.stack(chances)
        with replacing(Path(path)) as part:
            part.write_bytes(encode(Payload(self._device, "answers", 0, tensors)))
        return len(chances)
