"""What arrives of one peer is wrong in one exchange: it is as if the peer had been silent there, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.encoding import EightBits
from mmkd.encoding.messages import encode
from mmkd.federated import (
    FedAvg,
    FedBuff,
    FedLin,
    FedNova,
    Gossip,
    GradientTracking,
    HeteroFL,
    Mime,
    PushSum,
    Scaffold,
)
from mmkd.knowledge import Prototypes, SharedLogits
from mmkd.schedule import Schedule
from mmkd.topology import Complete, Ring, Star
from mmkd.transport import LocalTransport, Mail, Message, Stack
from mmkd.types import Payload
from tests.coordination.test_elsewhere import (
    CLASSES,
    Median,
    Perceptron,
    Vectors,
    every,
    hub,
    once,
    ring,
    says,
)
from tests.tiny import trainer

BAD = "b/0"
"""Whose message is wrong."""


def with_nan(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    tensor.view(-1)[0] = torch.nan
    return name, tensor


def retold(change: Callable[[str, Tensor], tuple[str, Tensor]]) -> Callable[[Payload], list[bytes]]:
    """A message that says the same of what is logits, if the names are still there."""

    def make(payload: Payload) -> list[bytes]:
        tensors = dict(payload.tensors)
        name = next(n for n, t in tensors.items() if t.is_floating_point())
        new, tensor = change(name, tensors.pop(name).clone())
        tensors[new] = tensor
        there = {n.partition(".")[0] for n in tensors}
        logits = tuple(n for n in payload.logits if n in there)
        return [encode(payload._replace(tensors=tensors, logits=logits))]

    return make


WAYS: dict[str, Callable[[Payload], list[bytes]]] = {
    "unreadable": lambda payload: [encode(payload)[:-1]],
    "kind": lambda payload: [encode(payload._replace(kind="another"))],
    "round": lambda payload: [encode(payload._replace(round=payload.round + 1))],
    "sender": lambda payload: [encode(payload._replace(sender="stranger"))],
    "names": retold(lambda name, tensor: ("another", tensor)),
    "shape": retold(lambda name, tensor: (name, torch.stack([tensor, tensor]))),
    "dtype": retold(lambda name, tensor: (name, tensor.int())),
    "values": retold(with_nan),
}
"""Ways in which a message is wrong, by the reason for which it is refused."""


class Bad(LocalTransport):
    """One thing that a peer sends comes as a message from elsewhere, or not at all.

    Args:
        make: the messages that come.
        at: which of the things that it sends, counted from 1.
    """

    def __init__(self, make: Callable[[Payload], list[bytes]], at: int = 2) -> None:
        super().__init__()
        self.make, self.at, self.sent = make, at, 0

    def deliver(self, mail: Mail) -> Mail:
        stacks, messages = [], []
        for stack in mail.stacks:
            self.sent += BAD in stack.senders
            if BAD not in stack.senders or self.sent != self.at:
                stacks.append(stack)
                continue
            row = list(stack.senders).index(BAD)
            payload = list(stack.payloads(mail.kind, mail.round))[row]
            messages = [Message(message, stack.receivers) for message in self.make(payload)]
            stacks += without(stack, row)
        return mail._replace(stacks=stacks, messages=messages)


def without(stack: Stack, row: int) -> list[Stack]:
    """The stack without a row."""
    rest = [i for i in range(len(stack.senders)) if i != row]
    spoken = None if stack.spoken is None else stack.spoken[rest]
    tensors = {n: t[rest] for n, t in stack.tensors.items()}
    senders = [stack.senders[i] for i in rest]
    return [stack._replace(senders=senders, tensors=tensors, edges=None, spoken=spoken)] if rest else []


class Out(NamedTuple):
    """How a fit ended."""

    weights: Mapping[str, Tensor]
    ledger: dict[str, object]
    refused: dict[str, int]


def fit(
    method: Callable[[], dict[str, Any]], transport: LocalTransport, *, narrow: bool = False, rounds: int = 3
) -> Out:
    """Two fleets of two train for some rounds of two steps."""
    fleets = {
        name: Fleet(partial(Perceptron, dim=3 if narrow and name == "b" else 5), 2) for name in ("a", "b")
    }
    model = Cohort(fleets, CLASSES, vectorize="never")
    callback = DecentralizedCallback(transport=transport, **{"schedule": Schedule(local_steps=2), **method()})
    trainer(callback, max_epochs=rounds, limit_val_batches=0).fit(model, datamodule=Vectors(("a", "b")))
    state = callback.ledger.state_dict()
    del state["refused"]
    return Out(model.state_dict(), state, callback.ledger.refusals())


METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "logits on a ring": says(SharedLogits, Ring),
    "logits through a hub": says(partial(SharedLogits, samples="all", confident=0.4), Star),
    "logits of eight bits": says(partial(SharedLogits, wire=EightBits()), Complete),
    "classes": says(Prototypes, Ring),
    "a pool": says(partial(SharedLogits, samples="all", pool=2), Ring),
    "gossip": ring(partial(Gossip, among="all")),
    "FedAvg": hub(partial(FedAvg, among="all")),
    "SCAFFOLD": hub(partial(Scaffold, among="all")),
    "MIME": hub(partial(Mime, among="all")),
    "FedLin": hub(partial(FedLin, among="all")),
    "HeteroFL": hub(partial(HeteroFL, among="all")),
    "a median": ring(partial(Median, among="all")),
    "compressed FedAvg": hub(partial(FedAvg, among="all", compression=every())),
    "FedBuff": hub(partial(FedBuff, 3, among="all")),
    "FedNova": hub(partial(FedNova, among="all")),
    "a median through a hub": hub(partial(Median, among="all")),
    "gradient tracking": ring(partial(GradientTracking, among="all"), schedule=once),
    "push-sum": ring(partial(PushSum, among="all", buffers="local")),
    "compressed gossip": ring(partial(Gossip, among="all", compression=every())),
    "FedAvg on a ring": ring(partial(FedAvg, among="all")),
}
PAIRS = list(
    zip(
        [
            "logits on a ring",
            "logits through a hub",
            "classes",
            "gossip",
            "HeteroFL",
            "a median",
            "compressed FedAvg",
            "SCAFFOLD",
        ],
        WAYS,
        strict=True,
    )
)
"""Kinds of exchanges, each with one way, so that each way is tried."""


def check(method: str, ways: list[str]) -> None:
    """A wrong message changes nobody and no byte, against a run in which its sender was silent."""
    run = partial(fit, METHODS[method], narrow=method == "HeteroFL")
    silent = run(Bad(lambda payload: []))
    assert silent.refused == {}
    assert all(bool(t.isfinite().all()) for t in silent.weights.values())
    for way in ways:
        bad = run(Bad(WAYS[way]))
        assert bad.refused == {way: 1}
        assert bad.ledger == silent.ledger  # what was refused was sent
        for n, tensor in silent.weights.items():
            assert torch.equal(bad.weights[n], tensor), f"{way}: {n}"


@pytest.mark.parametrize(("method", "way"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_what_is_wrong_is_as_if_it_had_not_been_sent(method: str, way: str) -> None:
    check(method, [way])


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_what_is_wrong_in_any_way_is_as_if_it_had_not_been_sent(method: str) -> None:
    check(method, list(WAYS))


@pytest.mark.parametrize("aggregation", [FedAvg, HeteroFL])
def test_who_is_absent_is_as_if_it_weighed_nothing(aggregation: Any) -> None:
    """Of weights and of what is sent after them in the same round; then all hear the same."""
    found = []
    for share, transport in ((1.0, Bad(lambda payload: [], at=1)), (0.0, LocalTransport())):
        weights = {"a/0": 1.0, "a/1": 2.0, BAD: share, "b/1": 1.0}
        method = hub(partial(aggregation, among="all", weights=weights))
        found.append(fit(method, transport, rounds=1).weights)
    for n, tensor in found[1].items():
        torch.testing.assert_close(found[0][n], tensor)


def faithful(method: str) -> None:
    """A right message is as good as a row of this process, and another of the same sender is refused."""
    run = partial(fit, METHODS[method], narrow=method == "HeteroFL")
    at = 3 if method == "push-sum" else 2  # in the first round of push-sum all masses are 1
    one, two = run(LocalTransport()), run(Bad(lambda payload: [encode(payload)] * 2, at))
    assert two.refused == {"repeated": 1}
    for n, tensor in one.weights.items():
        assert torch.equal(two.weights[n], tensor), n
    silent = run(Bad(lambda payload: [], at))
    assert any(not torch.equal(silent.weights[n], tensor) for n, tensor in one.weights.items())


@pytest.mark.parametrize("method", ["logits on a ring"])
def test_a_right_message_is_taken_once(method: str) -> None:
    faithful(method)


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_right_message_is_taken_once_by_every_method(method: str) -> None:
    faithful(method)
