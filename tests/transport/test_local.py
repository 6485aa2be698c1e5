"""What every transport promises, and what stacks are made of."""

from __future__ import annotations

import pytest
import torch

from mmkd.encoding.messages import decode, encode
from mmkd.transport import LocalTransport, Mail, Stack
from mmkd.transport.local import restacked

SAMPLES = 9
TRANSPORTS = {"by reference": LocalTransport(), "serialised": LocalTransport(serialise=True)}
every_transport = pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)


def stack(*senders: str, spoken: torch.Tensor | None = None, **changes: object) -> Stack:
    """Two statements of each sender, of two types, about nine samples."""
    stream = torch.Generator().manual_seed(len(senders))
    tensors = {
        "main": torch.randn(len(senders), SAMPLES, 3, generator=stream),
        "main.step": torch.randn(len(senders), SAMPLES, 1, generator=stream).half(),
    }
    made = Stack(list(senders), tensors, ["x", "y"], None, spoken, ("main",))
    return made._replace(**changes)  # type: ignore[arg-type]


def some(*rows: list[int]) -> torch.Tensor:
    """Of each row the samples that it is about."""
    return torch.tensor([[i in row for i in range(SAMPLES)] for row in rows])


# --- stacks ----------------------------------------------------------------------------------------


def test_copies_without_edges_go_to_all_others() -> None:
    """A receiver that is named twice is one, and nobody sends to itself."""
    assert stack("a", "x", "b", receivers=["x", "y", "x", "z"]).copies() == [3, 2, 3]
    assert stack("a", receivers=["a"]).copies() == [0]


def test_copies_over_edges_are_counted_by_row() -> None:
    """The first row has two receivers, the second none, the third one."""
    edges = torch.tensor([[0, 1, 1], [0, 0, 2]])
    assert stack("a", "b", "c", edges=edges).copies() == [2, 0, 1]


@pytest.mark.parametrize("spoken", [None, some([0], [], list(range(9)), [0, 8]), some([4], [5], [6], [7])])
@pytest.mark.parametrize("kind", ["logits", "élan"])
def test_sizes_are_those_of_messages(spoken: torch.Tensor | None, kind: str) -> None:
    """Row by row: bytes of tensors, and what the header of a real message takes beside them."""
    made = stack("a", "fleet/10", "ö", '"', spoken=spoken)
    for (nbytes, framing), payload in zip(made.sizes(kind, 12), made.payloads(kind, 12), strict=True):
        assert nbytes == payload.nbytes
        # Headers are padded, and rounds that are equally long share one size.
        assert nbytes + framing == len(encode(payload._replace(round=99)))


def test_bytes_of_a_row_are_of_the_samples_that_it_is_about() -> None:
    """Three floats and a half each; two bytes of bits say which of nine, unless all."""
    made = stack("a", "b", "c", spoken=some([], [0, 8], list(range(9))))
    assert [nbytes for nbytes, _ in made.sizes("logits", 0)] == [2, 2 * 14 + 2, 9 * 14]


def test_rows_that_samples_share_are_sent_and_counted_once() -> None:
    """Of nine samples two rows, and a byte a sample; of three spoken about one; and where all differ, all."""
    alike = torch.arange(SAMPLES).repeat(3, 1)
    alike[0] %= 2
    alike[1, [3, 4]] = 2
    made = stack("a", "b", "c")
    tensors = {n: t.gather(1, alike[..., None].expand_as(t)) for n, t in made.tensors.items()}
    for spoken, nbytes in (
        (None, [2 * 14 + 9, 7 * 14 + 9, 9 * 14]),
        (some([0, 1, 2], [2, 3, 4], []), [2 * 14 + 3 + 2, 14 + 3 + 2, 2]),
    ):
        sent = made._replace(tensors=tensors, spoken=spoken, alike=alike)
        messages = [(p.nbytes, len(encode(p._replace(round=99)))) for p in sent.payloads("logits", 12)]
        assert [size for size, _ in messages] == nbytes
        assert [(size, size + framing) for size, framing in sent.sizes("logits", 12)] == messages
        (arrived,) = TRANSPORTS["serialised"].deliver(Mail("logits", 0, [sent])).stacks
        said = torch.ones(3, SAMPLES, dtype=torch.bool) if spoken is None else spoken
        assert arrived.spoken is not None
        assert torch.equal(arrived.spoken, said)
        assert all(torch.equal(arrived.tensors[name][said], t[said]) for name, t in tensors.items())


def test_payloads_name_their_sender_kind_round_and_logits() -> None:
    one, two = stack("a", "b", spoken=some([1, 3], list(range(9)))).payloads("logits", 5)
    assert (one.sender, one.kind, one.round, one.logits) == ("a", "logits", 5, ("main",))
    assert set(one.tensors) == {"main", "main.step", "spoken"}
    assert set(two.tensors) == {"main", "main.step"}
    assert torch.equal(one.tensors["main"], stack("a", "b").tensors["main"][0, [1, 3]])


# --- delivery --------------------------------------------------------------------------------------


@every_transport
def test_what_is_sent_arrives_bit_for_bit(transport: LocalTransport) -> None:
    """Not a number, infinities and types among it; and who sent it, to whom, and what is a logit."""
    sent = stack("b", "a", edges=torch.tensor([[0, 1], [1, 0]]))
    sent.tensors["main"][0, 0] = torch.tensor([torch.nan, torch.inf, -0.0])
    mail = transport.deliver(Mail("logits", 3, [sent, stack("c")]))
    assert (mail.kind, mail.round, len(mail.stacks)) == ("logits", 3, 2)
    arrived = mail.stacks[0]
    assert list(arrived.senders) == ["b", "a"]
    assert arrived.receivers == sent.receivers
    assert arrived.logits == ("main",)
    assert arrived.spoken is None
    assert arrived.edges is not None
    assert torch.equal(arrived.edges, torch.tensor([[0, 1], [1, 0]]))
    for name, tensor in sent.tensors.items():
        assert arrived.tensors[name].dtype == tensor.dtype
        assert torch.equal(arrived.tensors[name].view(torch.uint8), tensor.view(torch.uint8))


@every_transport
def test_rows_about_some_samples_arrive_at_their_places(transport: LocalTransport) -> None:
    """Of samples that a row is about nothing is lost; who says nothing of any sample is silent in all."""
    spoken = some([1, 8], [], list(range(9)))
    sent = stack("a", "b", "c", spoken=spoken)
    (arrived,) = transport.deliver(Mail("logits", 0, [sent])).stacks
    assert arrived.spoken is not None
    assert torch.equal(arrived.spoken, spoken)
    for name, tensor in sent.tensors.items():
        assert torch.equal(arrived.tensors[name][spoken], tensor[spoken])


@every_transport
def test_nothing_sent_is_nothing_that_arrives(transport: LocalTransport) -> None:
    assert list(transport.deliver(Mail("weights", 0, [])).stacks) == []


def test_in_one_process_nothing_is_copied() -> None:
    sent = stack("a")
    (arrived,) = LocalTransport().deliver(Mail("logits", 0, [sent])).stacks
    assert all(arrived.tensors[name] is tensor for name, tensor in sent.tensors.items())


def test_messages_may_come_in_another_order_than_they_were_sent() -> None:
    """A row belongs to whom its message names, and what was left out of it is zero and not said."""
    sent = stack("a", "b", "c", spoken=some([0], [1, 2], list(range(9))))
    messages = [encode(payload) for payload in sent.payloads("logits", 0)]
    arrived = restacked(sent, [decode(messages[i]) for i in (2, 0, 1)], torch.device("cpu"))
    assert list(arrived.senders) == ["c", "a", "b"]
    assert arrived.spoken is not None
    assert torch.equal(arrived.spoken, some(list(range(9)), [0], [1, 2]))
    main = sent.tensors["main"][[2, 0, 1]]
    assert torch.equal(arrived.tensors["main"], main * arrived.spoken[..., None])


def test_who_stays_silent_is_absent() -> None:
    """Of three rows two messages arrive: the stack has two."""
    sent = stack("a", "b", "c")
    payloads = list(sent.payloads("logits", 0))
    arrived = restacked(sent, [payloads[0], payloads[2]], torch.device("cpu"))
    assert list(arrived.senders) == ["a", "c"]
    assert torch.equal(arrived.tensors["main"], sent.tensors["main"][[0, 2]])
