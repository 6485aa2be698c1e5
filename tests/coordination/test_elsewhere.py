"""Peers in two processes end as all of them do in one: the same bits, and ledgers that add up to its."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mmkd.caching import KnowledgeCache
from mmkd.callbacks import DecentralizedCallback, Diagnostics
from mmkd.cohort import Cohort, Fleet
from mmkd.coordination.oracle import Oracle
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.encoding import EightBits, Quantise, TopK
from mmkd.encoding.messages import decode, encode
from mmkd.federated import (
    Combination,
    FedAdam,
    FedAvg,
    FedBuff,
    FedDF,
    FedLin,
    FedNova,
    FedProx,
    FedShuffle,
    Gossip,
    GradientTracking,
    HeteroFL,
    Mime,
    PushSum,
    Scaffold,
)
from mmkd.functional.random import generator
from mmkd.knowledge import MultiHeadDistillation, Prototypes, SharedLogits
from mmkd.ledger import JOINING, Ledger
from mmkd.participation import Sampled, Trace
from mmkd.schedule import Schedule
from mmkd.students import Classifier
from mmkd.topology import Complete, DirectedCycle, Path, Ring, Star
from mmkd.transport import Facts, LocalTransport, Mail, Message, Transport
from mmkd.transport.facts import everybody, lives_here
from mmkd.types import ConfigError
from tests.tiny import sgd, trainer

CLASSES, FEATURES, PUBLIC = 3, 4, 6
FLEETS = ("a", "b", "c", "d")
"""The last two have narrower students."""
HALVES = (("a",), ("b",))
"""Fleets of each process."""


class Perceptron(Classifier):
    """One hidden layer, with statistics that travel."""

    modalities = ("vector",)

    def __init__(self, num_classes: int, *, dim: int = 5, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=dim, optimizer=sgd(0.1), **kwargs)
        self.hidden = nn.Sequential(nn.Linear(FEATURES, dim), nn.BatchNorm1d(dim), nn.Tanh())

    def embed(self, x: Tensor) -> Tensor:
        return self.hidden(x)


class Vectors(PeerDataModule):
    """Samples that a peer's name draws; nobody asks for those of peers elsewhere."""

    num_classes = CLASSES
    modalities = ("vector",)

    def __init__(self, held: Sequence[str]) -> None:
        super().__init__(batch_size=4)
        self.fleets, self.asked = held, set[str]()

    def private(self, peer: str, split: str) -> Samples:
        fleet, number = peer.split("/")
        assert fleet in self.fleets or peer in self.fleets, f"'{peer}' is elsewhere"
        self.asked.add(peer)
        size = 8 + 4 * (FLEETS.index(fleet) + int(number))
        x = torch.randn(size, FEATURES, generator=generator("vectors", peer, split))
        return Samples(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())

    def public(self, split: str) -> PublicSamples:
        return PublicSamples({"vector": torch.randn(PUBLIC, FEATURES, generator=generator("public"))})


class Piped(Transport):
    """Two processes, joined by a pipe that carries messages.

    Args:
        pipe: to the other process.
        first: whether this process speaks first, and hosts the hubs.
    """

    def __init__(self, pipe: Connection, *, first: bool) -> None:
        self.pipe, self.hosts = pipe, first
        self.here: Mapping[str, Facts] = {}
        self.all: Mapping[str, Facts] = {}

    def swap(self, mine: Any) -> Any:
        """What the other process hands over at the same time."""
        if self.hosts:
            self.pipe.send(mine)
            return self.pipe.recv()
        theirs = self.pipe.recv()
        self.pipe.send(mine)
        return theirs

    def join(self, facts: Mapping[str, Facts], *_: Any) -> Mapping[str, Facts]:
        messages = self.swap([encode(own.payload(name)) for name, own in facts.items()])
        told = {payload.sender: Facts.of(payload) for payload in map(decode, messages)}
        self.here, self.all = facts, everybody([facts, told])
        return self.all

    def deliver(self, mail: Mail) -> Mail:
        kind, round_, theirs = self.swap((mail.kind, mail.round, list(self.letters(mail))))
        assert (kind, round_) == (mail.kind, mail.round)
        messages = []
        for message, receivers in theirs:
            here = [name for name in receivers if lives_here(name, self.here, self.all, hosts=self.hosts)]
            if here:
                messages.append(Message(message, here))
        return mail._replace(messages=messages)

    def letters(self, mail: Mail) -> Iterator[tuple[bytes, list[str]]]:
        """Messages of those who are here, each with all who get it."""
        for stack in mail.stacks:
            ways = None if stack.edges is None else stack.edges.T.tolist()
            for row, payload in enumerate(stack.payloads(mail.kind, mail.round)):
                receivers = list(stack.receivers)
                if ways is not None:
                    receivers = [receivers[place] for place, other in ways if other == row]
                yield encode(payload), receivers


class Out(NamedTuple):
    """How a fit ended."""

    weights: dict[str, Tensor]
    ledger: dict[str, Any]
    asked: set[str]


def fit(
    held: Sequence[str],
    transport: Transport,
    method: Callable[[], dict[str, Any]],
    *,
    vectorize: Any = "never",
    stopped: pathlib.Path | None = None,
) -> Out:
    """Fleets of two, trained for three rounds of two steps, or of what the method says.

    Args:
        held: fleets of this process, or peers of fleets that are in several.
        transport: of this process.
        method: what is said, to whom and when; ``student``, arguments of those who say it.
        vectorize: how students train.
        stopped: folder of a checkpoint after the first round, from which another run goes on.
    """
    checkpoint = None if stopped is None else stopped / f"{'+'.join(held)}.ckpt"
    for epochs in (3,) if checkpoint is None else (1, 3):
        split = any("/" in name for name in held)
        factors = {"schedule": Schedule(local_steps=2), **method()}
        student = partial(Perceptron, **factors.pop("student", {}))
        fleets = {
            name: Fleet(partial(student, dim=5 if name in "ab" else 3), 2)
            for name in (HALVES[0] + HALVES[1] if split else held)
        }
        model = Cohort(fleets, CLASSES, vectorize=vectorize, own=list(held) if split else None)
        callback, data = DecentralizedCallback(transport=transport, **factors), Vectors(held)
        run = trainer(callback, max_epochs=epochs, limit_val_batches=0)
        run.fit(model, datamodule=data, ckpt_path=checkpoint if epochs == 3 else None)
        if checkpoint is not None and epochs == 1:
            run.save_checkpoint(checkpoint)
    return Out(model.state_dict(), callback.ledger.state_dict(), data.asked)


def in_two(method: Callable[[], dict[str, Any]], halves: Sequence[Sequence[str]], **how: Any) -> list[Out]:
    """The first fleets here, where hubs are, and the second ones in a process of their own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    result, told = context.Pipe(duplex=False)

    def other() -> None:
        ours.close()
        try:
            out = fit(halves[1], Piped(theirs, first=False), method, **how)
            told.send(out._replace(weights=safetensors.torch.save(out.weights)))
        except BaseException:
            told.send(traceback.format_exc())
        finally:
            os._exit(0)

    process = context.Process(target=other)
    process.start()
    theirs.close()
    told.close()
    try:
        first = fit(halves[0], Piped(ours, first=True), method, **how)
        second = result.recv()
    except (EOFError, ConnectionError):
        second = result.recv()
    finally:
        ours.close()
        process.join(20)
    if isinstance(second, str):
        pytest.fail(second)
    return [first, second._replace(weights=safetensors.torch.load(second.weights))]


def same(method: Callable[[], dict[str, Any]], halves: Sequence[Sequence[str]] = HALVES, **how: Any) -> None:
    """Every bit of every peer, every byte and every operation."""
    one = fit([*halves[0], *halves[1]], LocalTransport(), method, **how)
    parts = in_two(method, halves, **how)
    for held, part in zip(halves, parts, strict=True):
        peers = {name for name in held if "/" in name} or {f"{fleet}/{i}" for fleet in held for i in range(2)}
        assert part.weights.keys() == {n for n in one.weights if n.split(".")[1] in peers}
        for n, tensor in part.weights.items():
            assert torch.equal(tensor, one.weights[n]), n
        assert part.asked == peers
    ledgers = [Ledger.from_state(part.ledger) for part in parts]
    assert all(ledger.total(JOINING) > 0 for ledger in ledgers)
    both = (ledgers[0] + ledgers[1]).state_dict()
    both["bytes"] = [row for row in both["bytes"] if row[3] != JOINING]  # type: ignore[attr-defined]
    assert both == one.ledger


class Median(Combination):
    """Of each number the median of those heard."""

    def combine(self, heard: Any, weights: Any) -> Any:
        return {n: leaf.median(1).values for n, leaf in heard.items()}


def hub(aggregation: Any, **factors: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"aggregation": aggregation(), "topology": Star(), **factors}


def ring(aggregation: Any, **factors: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"aggregation": aggregation(), "topology": Ring(), **factors}


def says(knowledge: Any, topology: Any, **factors: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"knowledge": knowledge(), "topology": topology(), **factors}


def collectives(between: Any, among: str = "fleet", **factors: Any) -> Callable[[], dict[str, Any]]:
    """Weights inside each process, knowledge between them."""
    return says(
        partial(SharedLogits, samples="all"),
        Star,
        aggregation=FedAvg(among=among),  # type: ignore[arg-type]  # a word of its own
        between=between(),
        **factors,
    )


half = Sampled(count=2)
once = Schedule(local_steps=1)
every = partial(TopK, 0.5)
GATE: dict[str, Callable[[], dict[str, Any]]] = {
    "logits on a cycle": says(SharedLogits, DirectedCycle),
    "logits through a hub, each its own": says(
        partial(SharedLogits, samples="all", confident=0.4, include_self=False), Star
    ),
    "gossip on a path": lambda: {"aggregation": Gossip(among="all"), "topology": Path()},
    "FedAvg through a hub, some absent": hub(partial(FedAvg, among="all"), participation=half),
    "SCAFFOLD, some absent": hub(partial(Scaffold, among="all"), participation=half),
    "compressed FedAvg": hub(partial(FedAvg, among="all", compression=every(), answers=every())),
    "a median on a ring": ring(partial(Median, among="all")),
    "collectives": collectives(Complete),
}
LONG: dict[str, Callable[[], dict[str, Any]]] = {
    "logits on a ring": says(SharedLogits, Ring),
    "logits of all samples on a ring": says(partial(SharedLogits, samples="all"), Ring),
    "logits through a hub": says(partial(SharedLogits, samples="all", confident=0.4), Star),
    "logits of a batch, some absent": says(SharedLogits, Ring, participation=half),
    "logits of a batch through a hub, some absent": says(SharedLogits, Star, participation=half),
    "drawn teachers": says(partial(SharedLogits, teachers=1), Complete),
    "a pool": says(partial(SharedLogits, samples="all", pool=2), Ring),
    "a pool, drawn of": says(partial(SharedLogits, samples="all", pool=2, recall=2), Ring),
    "a cache through a hub, each its own": says(
        partial(SharedLogits, samples="all", include_self=False, cache=KnowledgeCache(stale=3, change=0.01)),
        Star,
    ),
    "a cache of a batch on a ring, some absent": says(
        partial(SharedLogits, cache=KnowledgeCache(stale=4, change=0.02)), Ring, participation=half
    ),
    "a cache of what is nearly alike, personal answers": says(
        partial(
            SharedLogits,
            samples="all",
            include_self=False,
            cache=KnowledgeCache(stale=9, change=0.2, near=0.2),
        ),
        Star,
    ),
    "a cache of what is nearly alike, some absent": says(
        partial(SharedLogits, samples="all", cache=KnowledgeCache(stale=9, change=0.3, most=0.5, near=0.3)),
        Ring,
        participation=half,
    ),
    "a cache that is too small": says(
        partial(SharedLogits, samples="all", cache=KnowledgeCache(stale=9, change=0.05, entries=3)), Complete
    ),
    "eight bits": says(partial(SharedLogits, wire=EightBits()), Star),
    "classes": says(Prototypes, Ring),
    "static teachers": says(SharedLogits, Ring, schedule=Schedule(local_steps={"a": 2, "b": 0})),
    "drawn work": says(SharedLogits, Star, schedule=Schedule(local_steps={"a": [1, 3], "b": 2})),
    "gossip": ring(partial(Gossip, among="all")),
    "push-sum on a cycle": lambda: {
        "aggregation": PushSum(among="all", buffers="local"),
        "topology": DirectedCycle(),
    },
    "FedAvg on a ring": ring(partial(FedAvg, among="all")),
    "FedAvg of everybody": lambda: {"aggregation": FedAvg(among="all"), "topology": Complete()},
    "FedAvg of each fleet": hub(partial(FedAvg, among="fleet")),
    "compressed gossip": ring(partial(Gossip, among="all", compression=Quantise())),
    "gradient tracking": ring(partial(GradientTracking, among="all"), schedule=once),
    "push-sum": ring(partial(PushSum, among="all", buffers="local")),
    "a median through a hub": hub(partial(Median, among="all")),
    "SCAFFOLD": hub(partial(Scaffold, among="all", controls="full")),
    "compressed SCAFFOLD": hub(partial(Scaffold, among="all", compression=every(), answers=every())),
    "FedProx": hub(partial(FedProx, among="all", mu=0.1), participation=half),
    "FedAdam": hub(partial(FedAdam, among="all", server_lr=0.1)),
    "FedBuff, some absent": hub(partial(FedBuff, 3, among="all"), participation=half),
    "FedNova": hub(partial(FedNova, among="all", mu=0.1)),
    "MIME": hub(partial(Mime, "adam", among="all"), participation=half),
    "MIMELite": hub(partial(Mime, "adam", lite=True, among="all"), participation=half),
    "compressed MIME": hub(partial(Mime, among="all", compression=every(), answers=every())),
    "FedLin": hub(partial(FedLin, among="all", gradients=every(), gradient_answers=every())),
    "FedShuffle": hub(
        partial(FedShuffle, among="all", momentum=0.5, weights="uniform"),
        schedule=Schedule(local_epochs=1),
        participation=half,
    ),
    "HeteroFL": hub(partial(HeteroFL, among="all"), participation=half),
    "a server with momentum": hub(partial(FedAvg, among="all", server_momentum=0.5)),
    "who comes and goes": hub(
        partial(Scaffold, among="all"),
        participation=Trace({"a/0": [[1, 1]], "a/1": [[0, 0], [2, 2]], "b/1": []}),
    ),
    "collectives on a ring": collectives(Ring),
    "collectives around a hub, some absent": collectives(
        partial(Star, "centre"), participation=Sampled(count=1)
    ),
    "MHD": says(
        partial(MultiHeadDistillation, teachers=1),
        Complete,
        student={"heads": 2},
        schedule=Schedule(local_steps=2, knowledge_every=1),
    ),
    "MHD with embeddings on a ring": says(
        partial(MultiHeadDistillation, nu_emb=1.0, samples="all"), Ring, student={"heads": 2}
    ),
    "hybrid": says(partial(SharedLogits, samples="all"), Star, aggregation=FedAvg(among="all")),
    "both": says(SharedLogits, Ring, aggregation=FedAvg(among="all")),
}


@pytest.mark.parametrize("method", GATE.values(), ids=GATE)
def test_two_processes_are_one(method: Callable[[], dict[str, Any]]) -> None:
    same(method)


@pytest.mark.parametrize(
    "name",
    [
        "logits on a cycle",
        "FedAvg through a hub, some absent",
        *(pytest.param(n, marks=pytest.mark.long) for n in [*GATE, *LONG] if "collectives" not in n),
    ],
)
def test_peers_of_one_fleet_in_two_processes_are_one(name: str) -> None:
    """Each process holds one peer of either fleet; the statements of all stand in canonical order."""
    same((GATE | LONG)[name], (("a/0", "b/1"), ("a/1", "b/0")))


@pytest.mark.parametrize(
    ("own", "message"),
    [(["a/2"], r"model\.own names 'a/2', which is no peer; did you mean a/1, a/0\?"), ([], "names nobody")],
)
def test_a_process_holds_peers_of_the_configuration(own: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cohort({"a": Fleet(Perceptron, 2)}, CLASSES, own=own)


@pytest.mark.long
@pytest.mark.parametrize("vectorize", ["never", "always"])
@pytest.mark.parametrize("method", LONG.values(), ids=LONG)
def test_two_processes_are_one_in_every_method(method: Callable[[], dict[str, Any]], vectorize: str) -> None:
    same(method, vectorize=vectorize)


@pytest.mark.long
@pytest.mark.parametrize("method", GATE.values(), ids=GATE)
def test_two_vectorised_processes_are_one(method: Callable[[], dict[str, Any]]) -> None:
    same(method, vectorize="always")


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["SCAFFOLD, some absent", "a pool, drawn of", "compressed MIME", "collectives"]
)
def test_two_processes_that_are_resumed_are_one(name: str, tmp_path: pathlib.Path) -> None:
    same((GATE | LONG)[name], stopped=tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("participation", [None, Sampled(count=3)], ids=["all", "some"])
def test_slices_of_the_widest_go_everywhere(participation: Any) -> None:
    method = hub(partial(HeteroFL, among="all"), participation=participation)
    same(method, (("a", "c"), ("b", "d")))


# --- what has no meaning ---------------------------------------------------------------------------


class Named(LocalTransport):
    """Peers of other processes are known, and nobody says anything: a fit ends before anybody would.

    Args:
        others: fleets of two elsewhere, and what is changed in their facts.
        hosts: whether hubs are here.
    """

    def __init__(self, *, hosts: bool = True, fleet: str = "b", **changes: Any) -> None:
        super().__init__()
        self.hosts, self.fleet, self.changes = hosts, fleet, changes

    def join(self, facts: Mapping[str, Facts], *_: Any) -> Mapping[str, Facts]:
        like = next(iter(facts.values()))._replace(**self.changes)
        names = [f"{self.fleet}/{i}" for i in range(2)]
        return everybody([facts, {name: like._replace(id=name) for name in names}])


WIDE = {
    n: t.shape
    for n, t in Perceptron(CLASSES, dim=7).state_dict().items()
    if t.is_floating_point() and n not in Perceptron.personal
}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an oracle": ({"oracle": Oracle(Perceptron, SharedLogits())}, {}, "an oracle reads samples"),
    "a cluster that is divided": (
        collectives(Ring, "all")(),
        {},
        "hold all of a/0, a/1, b/0, b/1 in one process",
    ),
    "a hub that distils": (
        {"aggregation": FedDF(among="all"), "topology": Star()},
        {},
        "the hub of FedDF predicts with students beside it",
    ),
    "statistics in push-sum": (
        {"aggregation": PushSum(among="all"), "topology": Ring()},
        {},
        "PushSum averages",
    ),
    "differences that are missed": (
        {"aggregation": FedAvg(among="all", answers=TopK()), "topology": Star(), "participation": half},
        {},
        "aggregation.answers are differences",
    ),
    "other first weights": (
        {"aggregation": Scaffold(among="all"), "topology": Star()},
        {"start": 1},
        "set model.init to shared",
    ),
    "other shapes": (
        {"aggregation": FedAvg(among="all"), "topology": Star()},
        {"shapes": {"main.bias": torch.Size([3])}},
        "a/0, a/1, b/0, b/1 differ in shape",
    ),
    "a hub without first weights": (
        {"aggregation": FedAdam(), "topology": Star()},
        {"modality": "sound"},
        "all of b/0, b/1 start from weights in common",
    ),
    "no slice of the widest": (
        {"aggregation": HeteroFL(among="all"), "topology": Star()},
        {"shapes": WIDE},
        "hold one of the widest of them in the process of the hub",
    ),
    "a peer of one name": ({}, {"fleet": "a"}, "two processes hold a peer 'a/0'"),
    "a schedule that leaves some out": (
        {"schedule": Schedule(local_steps={"a": 2})},
        {},
        "says nothing about b/0",
    ),
}


@pytest.mark.parametrize(("method", "elsewhere", "said"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_meaning_is_refused_before_training(
    method: dict[str, Any], elsewhere: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        fit(HALVES[0], Named(**elsewhere), lambda: method)
    assert "\n" not in str(error.value)


def test_diagnostics_are_refused() -> None:
    model, data = Cohort({"a": Fleet(Perceptron, 2)}, CLASSES), Vectors("a")
    callbacks: Any = [DecentralizedCallback(SharedLogits(), transport=Named()), Diagnostics()]
    with pytest.raises(ConfigError, match="Diagnostics compare what all peers say"):
        trainer(*callbacks, limit_val_batches=0).fit(model, datamodule=data)


def test_a_hub_that_is_nowhere_answers_nobody() -> None:
    method = {"aggregation": FedAvg(among="fleet"), "topology": Star()}
    with pytest.raises(ConfigError, match="'hub' sent no 'weights' that can be used to 'a/0', which is here"):
        fit(HALVES[0], Named(hosts=False), lambda: method)
