"""A service that answers the questions of devices, many at once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkd.edge.graph import Graph
from mmkd.edge.questions import ANYBODY, Question, answer, place, read_question
from mmkd.edge.trained import Trained
from mmkd.edge.validating import sample_of, validated
from mmkd.students.base import Classifier
from mmkd.transport.access import read
from mmkd.transport.session import opened
from mmkd.types import ConfigError, PeerName

TOGETHER = 64
"""Questions that go through the student at once."""
LARGEST = 2**24
"""Bytes of the largest message that is read."""
WAITING = 4096
"""Questions that wait; further ones are told at once that nobody has time."""


def serve_until_told(
    run: Trained,
    peer: PeerName,
    study: str,
    listen: Sequence[str],
    hosts: Sequence[str],
    keys: str | None,
    *,
    open: bool,
) -> Counter[str]:
    """Answer for a peer of a run until SIGINT or SIGTERM; returns what became of questions.

    Raises:
        ConfigError: the peer is not there or no classifier, it has no samples, or no session can be opened.
    """
    student = run.student(peer)
    if not isinstance(student, Classifier):
        raise ConfigError(f"'{peer}' is no classifier, and answers are probabilities of classes")
    graph = Graph(student, validated(student, run.data, peer, 0.0).temperature)
    example = graph.arguments(sample_of(run.data, peer))
    process = ANYBODY if keys is None else _holder(peer, read(Path(keys)))
    session = opened(listen, hosts, keys, LARGEST, open=open)
    try:
        service = Service(session, study, process, peer, graph, example)
        asyncio.run(_until_told(service, f"{peer} answers at {', '.join(listen) or ', '.join(hosts)}"))
    finally:
        session.close()
    return service.counts


def _holder(peer: PeerName, access: Mapping[str, Sequence[str]]) -> str:
    found = [process for process, names in access.items() if peer in names]
    if not found:
        raise ConfigError(f"by the certificates no process holds '{peer}'")
    return found[0]


async def _until_told(service: Service, ready: str) -> None:
    task = asyncio.create_task(service.run())
    for told in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(told, task.cancel)
    print(ready, flush=True)
    with suppress(asyncio.CancelledError):
        await task


class _Waiting(NamedTuple):
    query: Any  # of Zenoh, through which the answer goes back
    asked: Question
    since: float


class Service:
    """Answers for one peer on a session of Zenoh.

    Questions that wait go through the student together. A question whose device no longer waits is left out,
    a wrong one is told what is wrong with it, and neither ends the service.

    Args:
        session: of Zenoh.
        study: that devices and service share.
        process: this one's name, which its certificate binds.
        peer: for whom it answers.
        graph: of its student, a classifier.
        example: a sample ``[1, ...]``, as the graph reads it.
    """

    def __init__(
        self,
        session: Any,
        study: str,
        process: str,
        peer: PeerName,
        graph: Graph,
        example: tuple[Tensor, ...],
    ) -> None:
        self._session, self._peer, self._graph = session, peer, graph
        self._key = place(study, process, peer)
        self._expected = dict(zip(graph.inputs, example, strict=True))
        self.counts = Counter[str]()
        """Questions that were answered, wrong, late, and turned away."""

    async def run(self) -> None:
        """Answer until the task is cancelled."""
        loop, waiting = asyncio.get_running_loop(), asyncio.Queue[_Waiting](WAITING)

        def arrives(query: Any) -> None:  # in a thread of Zenoh's
            loop.call_soon_threadsafe(self._take, query, waiting)

        queryable = self._session.declare_queryable(self._key, arrives, complete=True)
        try:
            while True:
                questions = [await waiting.get()]
                while len(questions) < TOGETHER and not waiting.empty():
                    questions.append(waiting.get_nowait())
                await loop.run_in_executor(None, self._answer, questions)
        finally:
            queryable.undeclare()

    def _take(self, query: Any, waiting: asyncio.Queue[_Waiting]) -> None:
        payload = query.payload
        try:
            asked = read_question(b"" if payload is None else payload.to_bytes(), self._expected)
            waiting.put_nowait(_Waiting(query, asked, time.monotonic()))
        except ValueError as error:
            self.counts["wrong"] += 1
            query.reply_err(str(error).encode())
            query.drop()
        except asyncio.QueueFull:
            self.counts["turned away"] += 1
            query.reply_err(b"nobody has time")
            query.drop()

    @torch.no_grad()
    def _answer(self, questions: list[_Waiting]) -> None:
        now, kept = time.monotonic(), list[_Waiting]()
        for waiting in questions:
            if now - waiting.since < waiting.asked.patience:
                kept.append(waiting)
            else:
                self.counts["late"] += 1
                waiting.query.drop()
        if not kept:
            return
        arguments = [torch.cat(parts) for parts in zip(*(q.asked.arguments for q in kept), strict=True)]
        _, chances = self._graph(*arguments)
        for (query, asked, _), found in zip(kept, chances, strict=True):
            query.reply(self._key, answer(self._peer, asked.number, found))
            query.drop()  # else its end is told when Python forgets it
            self.counts["answered"] += 1
