"""What the receiver of an exchange takes, what it refuses, and what it writes down."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

from mmkd.coordination.cluster_mail import ClusterMail
from mmkd.coordination.delivery import LOG, Delivery
from mmkd.coordination.expected import ExpectedStatements, ExpectedTree
from mmkd.encoding import EightBits, Floats, TopClasses, TopK, Wire
from mmkd.encoding.messages import encode
from mmkd.ledger import Ledger
from mmkd.transport import Mail, Message, Stack, Transport
from mmkd.types import ConfigError, Payload

SAMPLES, CLASSES = 3, 4
CPU = torch.device("cpu")
INF = torch.inf


class Handed(Transport):
    """Hands over messages as if they came from another process, which has the hub."""

    hosts = False

    def __init__(self, *payloads: Payload, to: Sequence[str] = ("a",)) -> None:
        self.messages = [Message(encode(payload), list(to)) for payload in payloads]

    def deliver(self, mail: Mail) -> Mail:
        return mail._replace(messages=self.messages)


def says(values: torch.Tensor, wire: Wire, *, logits: bool = True, **changes: Any) -> Payload:
    tensors = {"main" + part: t for part, t in wire.encode(values, logits=logits).items()}
    payload = Payload("b", "logits", 0, tensors, ("main",) if logits else ())
    return payload._replace(**changes)


def delivered(
    *payloads: Payload, wire: Wire | None = None, logits: bool = True, ledger: Ledger | None = None
) -> tuple[list[Stack], dict[str, int]]:
    """Stacks of those that are taken, and refusals."""
    known = {"main": (CLASSES, logits)}
    expected = partial(ExpectedStatements, ["b", "c"], CPU, wire or Floats(), known, CLASSES, SAMPLES)
    ledger = ledger or Ledger(["a", "b", "c"])
    return Delivery(Handed(*payloads), ledger).deliver("logits", 0, [], expected), ledger.refusals()


# --- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "logits", "taken"),
    [
        ([0.0, 1.0, -INF, -INF], True, True),  # classes that are ruled out
        ([-INF, -INF, -INF, -INF], True, False),  # a softmax of nothing
        ([0.0, INF, 0.0, 0.0], True, False),
        ([0.0, torch.nan, 0.0, 0.0], True, False),
        ([0.0, 1.0, -INF, -INF], False, False),
        ([3e38, 3e38, 3e38, 3e38], False, True),  # their sum overflows, and they do not
    ],
)
def test_logits_need_a_softmax_and_all_else_is_finite(row: list[float], logits: bool, taken: bool) -> None:
    said = torch.zeros(SAMPLES, CLASSES)
    said[1] = torch.tensor(row)
    stacks, refused = delivered(says(said, Floats(), logits=logits), logits=logits)
    assert [len(stack.senders) for stack in stacks] == [1] * taken
    assert refused == ({} if taken else {"values": 1})


def test_codes_that_stand_for_nothing_are_refused() -> None:
    """A class that there is not, and a step that is no number."""
    said = torch.eye(CLASSES)[:SAMPLES]
    classes = says(said, TopClasses(2))
    classes.tensors["main.classes"][0, 0] = CLASSES
    assert delivered(classes, wire=TopClasses(2)) == ([], {"values": 1})
    step = says(said, EightBits())
    step.tensors["main.step"][2] = torch.nan
    assert delivered(step, wire=EightBits()) == ([], {"values": 1})


def test_places_beyond_a_tensor_are_refused() -> None:
    tree, coder = {"w": torch.randn(1, 4)}, TopK(0.5)
    sent = {n: t[0] for n, t in coder.encode(tree, [("b",)]).items()}
    forms = {n: (t.shape, t.dtype) for n, t in sent.items()}
    expected = partial(ExpectedTree, ["b"], CPU, lambda *_: forms, coder, tree)
    for place, refused in ((3, {}), (4, {"values": 1}), (-1, {"values": 1})):
        sent["w.places"] = torch.tensor([0, place], dtype=torch.int32)
        ledger = Ledger(["b"])
        Delivery(Handed(Payload("b", "weights", 0, sent)), ledger).deliver("weights", 0, [], expected)
        assert ledger.refusals() == refused, place


# --- samples that are left out ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "rows", "reason"),
    [
        ([0b101], 2, None),
        ([0b000], 0, None),
        ([0b101], 3, "shape"),
        ([0b111], 3, "values"),  # all are said without bits
        ([0b1001], 2, "values"),  # there is no fourth sample
        ([0b101, 0], 2, "shape"),
    ],
)
def test_bits_name_the_samples_that_are_sent(bits: list[int], rows: int, reason: str | None) -> None:
    payload = says(torch.ones(rows, CLASSES), Floats())
    tensors = {**payload.tensors, "spoken": torch.tensor(bits, dtype=torch.uint8)}
    stacks, refused = delivered(payload._replace(tensors=tensors))
    assert refused == ({reason: 1} if reason else {})
    for stack in stacks:
        assert stack.spoken is not None
        assert stack.spoken.tolist() == [[bool(bits[0] >> i & 1) for i in range(SAMPLES)]]
        assert torch.equal(stack.tensors["main"][0].sum(1) != 0, stack.spoken[0])


@pytest.mark.parametrize(
    ("numbers", "rows", "bits", "reason"),
    [
        ([0, 0, 0], 1, None, None),
        ([0, 1, 0], 2, None, None),
        ([0, 0], 1, 0b101, None),
        ([0, 1, 2], 3, None, "values"),  # each once
        ([1, 0, 0], 2, None, "values"),  # in another order
        ([0, 2, 0], 3, None, "values"),  # one is never named
        ([0, 0, 0], 2, None, "shape"),
        ([0, 1, 0], 1, None, "shape"),
        ([0, 0], 1, None, "shape"),
        ([0, 0, 0], 1, 0b101, "shape"),
        ([], 0, 0, "shape"),
        (torch.tensor([0, -1, 0], dtype=torch.int8), 1, None, "values"),
        (torch.tensor([0, 0, 0], dtype=torch.int16), 1, None, "dtype"),
        (torch.zeros(3), 1, None, "dtype"),
        (torch.zeros(3, dtype=torch.bool), 1, None, "dtype"),
    ],
)
def test_numbers_name_the_rows_of_samples(
    numbers: list[int] | torch.Tensor, rows: int, bits: int | None, reason: str | None
) -> None:
    payload = says(torch.arange(1.0, rows + 1)[:, None].expand(rows, CLASSES).contiguous(), Floats())
    alike = numbers if isinstance(numbers, torch.Tensor) else torch.tensor(numbers, dtype=torch.uint8)
    tensors = {**payload.tensors, "alike": alike}
    if bits is not None:
        tensors["spoken"] = torch.tensor([bits], dtype=torch.uint8)
    stacks, refused = delivered(payload._replace(tensors=tensors))
    assert refused == ({reason: 1} if reason else {})
    for stack in stacks:
        assert stack.spoken is not None
        assert stack.tensors["main"][stack.spoken][:, 0].tolist() == [1.0 + row for row in numbers]


# --- who -------------------------------------------------------------------------------------------


def test_a_refused_message_does_not_silence_its_sender() -> None:
    """The right one after it is taken; what the same sender says after that is refused, whatever it is."""
    right = says(torch.zeros(SAMPLES, CLASSES), Floats())
    stacks, refused = delivered(right._replace(round=7), right, says(torch.ones(SAMPLES, CLASSES), Floats()))
    assert [list(stack.senders) for stack in stacks] == [["b"]]
    assert bool((stacks[0].tensors["main"] == 0).all())
    assert refused == {"round": 1, "repeated": 1}


def test_alike_messages_are_one_stack() -> None:
    one = says(torch.zeros(SAMPLES, CLASSES), Floats())
    stacks, _ = delivered(one, one._replace(sender="c"))
    assert [list(stack.senders) for stack in stacks] == [["b", "c"]]


def test_each_sender_and_reason_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """In one line, whatever a message calls itself; and counts are saved, and added like bytes."""
    one, ledger = says(torch.zeros(SAMPLES, CLASSES), Floats()), Ledger(["a", "b", "c"])
    strange = one._replace(sender="x\n\x1b[31m")
    with caplog.at_level(logging.WARNING, LOG.name):
        delivered(one._replace(round=7), one._replace(round=8), strange, strange, ledger=ledger)
    assert len(caplog.messages) == 2
    assert "'b'" in caplog.messages[0]
    assert "round 7" in caplog.messages[0]
    assert all(message.isprintable() for message in caplog.messages)
    assert ledger.refused == {("b", "logits", "round"): 2, ("", "logits", "sender"): 2}
    assert Ledger.from_state(ledger.state_dict()) == ledger
    assert (ledger + ledger).refusals() == {"round": 4, "sender": 4}
    assert ledger.total() == 0
    assert ledger.by_kind() == {}


# --- answers of a hub in another process -----------------------------------------------------------


def told(*payloads: Payload, to: Sequence[str] = ("a",)) -> Any:
    ledger = Ledger(["a", "b"])
    mail = ClusterMail(Delivery(Handed(*payloads, to=to), ledger), "hub", {"a": "a"}, None, whole=False)
    return mail.tell("weights", 0, {"w": torch.zeros(1, 2)}, ["a", "b"])


def test_the_answer_of_a_hub_is_taken() -> None:
    assert torch.equal(told(Payload("hub", "weights", 0, {"w": torch.ones(2)}))["w"], torch.ones(1, 2))


@pytest.mark.parametrize("w", [torch.ones(3), torch.ones(2).int(), torch.tensor([1.0, torch.nan])])
def test_without_the_answer_of_a_hub_nobody_goes_on(w: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="'hub' sent no 'weights' that can be used to 'a'") as error:
        told(Payload("hub", "weights", 0, {"w": w}))
    assert "\n" not in str(error.value)
