"""Devices ask and services answer, and every sample is answered in time: locally, if need be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.edge.asking import Answer, Cascade
from mmkd.edge.graph import Graph
from mmkd.edge.questions import CHANCES, Question, answer, place, question, read_answer, read_question
from mmkd.edge.serving import Service
from mmkd.encoding.messages import decode, encode
from mmkd.students import Classifier
from mmkd.transport.session import opened
from mmkd.types import ConfigError, Payload
from tests.edge.test_export import Tags
from tests.students.kinds import KINDS
from tests.transport.test_zenoh import ends, free_ports

zenoh = pytest.importorskip("zenoh")
CLASSES, LARGE = 3, "large/0"
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


class Linear(Classifier):
    """Reads four numbers; as sure as it is made to be."""

    modalities = ("thing",)

    def __init__(self, seed: int, sure: float = 1.0) -> None:
        super().__init__(CLASSES, dim=4)
        stream = torch.Generator().manual_seed(seed)
        self.main.weight = nn.Parameter(sure * torch.randn(CLASSES, 4, generator=stream))
        self.main.bias = nn.Parameter(torch.zeros(CLASSES))

    def embed(self, x: Tensor) -> Tensor:
        return x


def apart(test: Callable[..., None]) -> Callable[..., None]:
    """Runs a test in a process of its own: whoever forks later, as other tests do, must not have Zenoh's threads."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        (told,) = ends(1, lambda _: test(*args, **kwargs) or "done")
        assert told == "done", told

    return run


@contextmanager
def joined() -> Iterator[tuple[Any, Any]]:
    """The sessions of a service and of a device."""
    endpoint = f"tcp/127.0.0.1:{free_ports(1)[0]}"
    both = opened([endpoint], [], None, 2**20, open=False), opened([], [endpoint], None, 2**20, open=False)
    try:
        yield both
    finally:
        for end in both:
            end.close()


def cascade(session: Any, study: str, **how: Any) -> Cascade:
    given = {"threshold": 0.6, "patience": 2.0, "peers": [LARGE], **how}
    return Cascade(Graph(Linear(1)), session, study, "small/0", **given)


@asynccontextmanager
async def serving(
    session: Any, study: str, *peers: str, make: Callable[[int], Linear] = Linear
) -> AsyncIterator[list[Service]]:
    services = [Service(session, study, "open", p, Graph(make(2 + i)), (X[:1],)) for i, p in enumerate(peers)]
    tasks = [asyncio.create_task(service.run()) for service in services]
    await asyncio.sleep(0.3)  # until the declaration is known on the other side
    try:
        yield services
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def all_of(device: Cascade, x: Tensor = X) -> list[Answer]:
    return list(await asyncio.gather(*(device.answer(row[None]) for row in x)))


@apart
def test_who_is_unsure_asks_and_gets_what_the_others_would_say(tmp_path: Path) -> None:
    """One peer and two; bytes are counted, and what was heard is kept for later."""
    own = Graph(Linear(1))(X)[1]
    unsure = own.amax(1) < 0.6
    assert 5 < int(unsure.sum()) < 35

    async def run() -> tuple[list[Answer], list[Answer], Cascade, list[Service]]:
        async with serving(sessions[0], "two", LARGE, "large/1") as services:
            device = cascade(sessions[1], "two")
            both = cascade(sessions[1], "two", peers=[LARGE, "large/1"], threshold=1.0)
            return await all_of(device), await all_of(both), device, services

    with joined() as sessions:
        one, two, device, services = asyncio.run(run())
    first, second = (Graph(Linear(seed))(X)[1] for seed in (2, 3))
    for i, found in enumerate(one):
        assert (found.by, found.asked) == (([LARGE], True) if unsure[i] else ([], False))
        torch.testing.assert_close(found.probabilities, first[i] if unsure[i] else own[i], rtol=0, atol=1e-6)
        torch.testing.assert_close(two[i].probabilities, (first[i] + second[i]) / 2, rtol=0, atol=1e-6)
    asked = int(unsure.sum())
    assert (device.counts["alone"], device.counts["asked"], device.counts["in vain"]) == (
        40 - asked,
        asked,
        0,
    )
    assert services[0].counts["answered"] == asked + 40
    ask, reply = question(Question("small/0", 0, (X[:1],), 1.0), ["thing"]), answer(LARGE, 0, own[0])
    assert device.counts["sent"] == pytest.approx(asked * len(ask), rel=0.1)
    assert device.counts["received"] == pytest.approx(asked * len(reply), rel=0.1)
    assert device.save(tmp_path / "heard") == asked
    kept = decode((tmp_path / "heard").read_bytes()).tensors
    places = [int((row == X).all(1).nonzero()) for row in kept["thing"]]
    assert sorted(places) == unsure.nonzero()[:, 0].tolist()
    torch.testing.assert_close(kept[CHANCES], first[places], rtol=0, atol=1e-6)


GARBAGE: dict[str, Any] = {
    "empty": lambda number: b"",
    "garbage": lambda number: b"\xff" * 100,
    "other question": lambda number: answer(LARGE, number + 1, torch.ones(CLASSES) / 3),
    "other peer": lambda number: answer("large/1", number, torch.ones(CLASSES) / 3),
    "no sum": lambda number: answer(LARGE, number, torch.ones(CLASSES)),
    "NaN": lambda number: answer(LARGE, number, torch.full((CLASSES,), torch.nan)),
    "negative": lambda number: answer(LARGE, number, torch.tensor([1.5, -0.5, 0.0])),
    "few": lambda number: answer(LARGE, number, torch.ones(2) / 2),
    "double": lambda number: answer(LARGE, number, (torch.ones(CLASSES) / 3).double()),
    "kind": lambda number: encode(Payload(LARGE, "weights", number, {CHANCES: torch.ones(CLASSES) / 3})),
    "silent": None,
}


@apart
def test_garbage_and_silence_leave_the_device_to_itself() -> None:
    """In time, with the device's own answer; a true answer beside garbage is taken."""
    held = []

    async def run(
        sessions: tuple[Any, Any], study: str, reply: Any, beside: bool
    ) -> tuple[Answer, Cascade, float]:
        def lies(query: Any) -> None:
            if reply is None:
                held.append(query)  # it is never answered
            else:
                asked = read_question(query.payload.to_bytes(), {"thing": X[:1]})
                query.reply(place(study, "liar", LARGE), reply(asked.number))

        device = cascade(
            sessions[1], study, patience=0.4, threshold=1.0, holders={} if beside else {LARGE: "liar"}
        )
        liar = sessions[0].declare_queryable(place(study, "liar", LARGE), lies)
        async with serving(sessions[0], study, *([LARGE] if beside else [])):
            start = time.monotonic()
            found = await device.answer(X[:1])
            took = time.monotonic() - start
        liar.undeclare()
        return found, device, took

    with joined() as sessions:
        for number, (name, reply) in enumerate(GARBAGE.items()):
            found, device, took = asyncio.run(run(sessions, f"lies{number}", reply, beside=False))
            assert (found.by, found.asked) == ([], True), name
            torch.testing.assert_close(found.probabilities, Graph(Linear(1))(X[:1])[1][0])
            assert took < 1.0, name
            assert device.counts["in vain"] == 1
            assert (device.counts["refused"] > 0) == (reply is not None), name
        for name in ("garbage", "other peer", "NaN"):
            found, _, _ = asyncio.run(
                run(sessions, f"both-{name.replace(' ', '')}", GARBAGE[name], beside=True)
            )
            assert found.by == [LARGE], name
    held.clear()


@apart
def test_a_service_that_ends_or_is_slow_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers at first is gone in the midst of questions; one that takes too long is not waited for."""

    class Slow(Linear):
        def embed(self, x: Tensor) -> Tensor:
            time.sleep(0.3)
            return x

    async def run() -> tuple[list[Answer], list[Answer], Any]:
        async with serving(sessions[0], "ends", LARGE):
            device = cascade(sessions[1], "ends", threshold=1.0, patience=0.5)
            first = await all_of(device, X[:20])
            rest = asyncio.create_task(all_of(device, X[20:]))
            await asyncio.sleep(0)
        monkeypatch.setattr("mmkd.edge.serving.TOGETHER", 1)
        async with serving(sessions[0], "slow", LARGE, make=Slow) as services:
            hurried = cascade(sessions[1], "slow", threshold=1.0, patience=0.25, tries=1)
            slow = await all_of(hurried, X[:10])
            await asyncio.sleep(0.5)
            return [*first, *await rest], slow, services[0].counts

    with joined() as sessions:
        found, slow, counts = asyncio.run(run())
    assert len(found) == 40
    assert all(answer.by == [LARGE] for answer in found[:20])
    assert max(answer.seconds for answer in [*found, *slow]) < 1.5
    assert [answer.by for answer in slow] == [[]] * 10
    # The others waited behind the first, and nobody computes what nobody waits for.
    assert (counts["answered"], counts["late"]) == (1, 9)


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a payload"),
    "two": (question(Question("d", 0, (X[:2],), 1.0), ["thing"]), r"'thing' is \[2, 4\]"),
    "double": (question(Question("d", 0, (X[:1].double(),), 1.0), ["thing"]), "float64"),
    "infinite": (question(Question("d", 0, (X[:1] / 0,), 1.0), ["thing"]), "not finite"),
    "other name": (question(Question("d", 0, (X[:1],), 1.0), ["other"]), "about thing is expected"),
    "impatient": (question(Question("d", 0, (X[:1],), -1.0), ["thing"]), "how long it waits"),
    "NaN": (question(Question("d", 0, (X[:1],), torch.nan), ["thing"]), "how long it waits"),
    "an answer": (answer("d", 0, torch.ones(3) / 3), "about thing is expected"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_questions_are_refused(name: str) -> None:
    message, said = WRONG[name]
    with pytest.raises(ValueError, match=said):
        read_question(message, {"thing": X[:1]})


def test_a_question_of_several_views_says_which_are_there() -> None:
    student, x = KINDS["fusion"].build(), KINDS["fusion"].draw(5, torch.Generator().manual_seed(0))
    graph = Graph(student)
    for row in range(5):
        sample = tuple(tensor[row : row + 1] for tensor in graph.arguments(x))
        sent = question(Question("d", 7, sample, 1.5), graph.inputs)
        found = read_question(sent, dict(zip(graph.inputs, sample, strict=True)))
        assert (found.device, found.number, found.patience) == ("d", 7, 1.5)
        for mine, right in zip(found.arguments, sample, strict=True):
            assert torch.equal(mine, right)
            assert mine.dtype == right.dtype


@apart
def test_a_service_tells_what_is_wrong_and_answers_the_next() -> None:
    async def run(sessions: tuple[Any, Any]) -> tuple[list[bytes], Answer, Any]:
        errors = []
        async with serving(sessions[0], "wrong", LARGE) as services:
            for message, _ in WRONG.values():
                ask = partial(sessions[1].get, place("wrong", "*", LARGE), payload=message, timeout=2.0)
                replies = await asyncio.get_running_loop().run_in_executor(None, lambda ask=ask: list(ask()))
                errors += [reply.err.payload.to_bytes() for reply in replies]
            found = await cascade(sessions[1], "wrong", threshold=1.0).answer(X[:1])
            return errors, found, services[0].counts

    with joined() as sessions:
        errors, found, counts = asyncio.run(run(sessions))
    assert len(errors) == len(WRONG)
    assert all(errors)
    assert found.by == [LARGE]
    assert (counts["wrong"], counts["answered"]) == (len(WRONG), 1)


def test_names_are_those_of_keys() -> None:
    """Letters of all scripts are; a star would stand for everybody, and an empty part is refused by Zenoh."""
    assert place("edge", "*", "cámaras ☃/0") == "mmkd/edge/ask/*/cámaras ☃/0"
    zenoh.KeyExpr(place("edge", "*", "cámaras ☃/0" + 300 * "é"))
    for study, peer in (
        ("edge", "cam*/0"),
        ("ed#ge", "a/0"),
        ("edge", "a?/0"),
        ("edge", "a//0"),
        ("", "a/0"),
    ):
        with pytest.raises(ConfigError, match="is no name on a network: leave"):
            place(study, "open", peer)


def test_a_cascade_without_a_larger_peer_is_refused() -> None:
    for peers in ([], ["small/0"]):
        with pytest.raises(ConfigError, match="asks at least one peer, and not the device itself"):
            cascade(None, "none", peers=peers)
    with pytest.raises(ConfigError, match="a cascade is of a classifier, and Tags is none"):
        Cascade(Graph(Tags(2)), None, "none", "small/0", [LARGE], threshold=0.5)
    with pytest.raises(ConfigError, match="about one sample at a time, not 2"):
        asyncio.run(cascade(None, "none").answer(X[:2]))
    with pytest.raises(ConfigError, match="reads 'thing', of which these samples have nothing"):
        asyncio.run(cascade(None, "none").answer({"other": X[:1]}))
    with pytest.raises(ConfigError, match="patience must be above 0"):
        cascade(None, "none", patience=0.0)
    with pytest.raises(ConfigError, match="nobody has answered"):
        cascade(None, "none").save("never")
    with pytest.raises(ValueError, match="does not answer question 1"):
        read_answer(answer(LARGE, 0, torch.ones(3) / 3), LARGE, 1, 3)


@apart
def test_certificates_bind_who_answers(tmp_path: Path) -> None:
    """Of two processes that say they are the large peer, the one that is; its answers are taken over TLS."""
    from mmkd.network.keys import make

    keys = make(tmp_path / "keys", [[LARGE], ["small/0"], ["rogue/0"]], None, ["127.0.0.1"], 1)
    place_of = f"tls/127.0.0.1:{free_ports(1)[0]}"
    ends = [opened([place_of], [], str(keys[1]), 2**20, open=False)]
    ends += [opened([], [place_of], str(key), 2**20, open=False) for key in (keys[0], keys[2])]
    lies: list[Any] = []

    async def run(holder: str) -> Answer:
        service = Service(ends[1], "tls", LARGE, LARGE, Graph(Linear(2)), (X[:1],))
        task = asyncio.create_task(service.run())
        rogue = ends[2].declare_queryable(place("tls", LARGE, LARGE), lies.append)
        await asyncio.sleep(1.0)
        found = await cascade(ends[0], "tls", threshold=1.0, holders={LARGE: holder}).answer(X[:1])
        rogue.undeclare()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return found

    try:
        assert asyncio.run(run(LARGE)).by == [LARGE]
        assert asyncio.run(run("rogue/0")).by == []
        assert lies == []
    finally:
        for end in ends:
            end.close()
